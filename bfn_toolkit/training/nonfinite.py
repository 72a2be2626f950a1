"""Origin of numbers that are not finite: the rows, the times and the stage of a step that failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.data.dataset import Rows
from bfn_toolkit.data.loader import row_order
from bfn_toolkit.errors import NonFiniteError, ResourceError
from bfn_toolkit.parallel import processes
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs.directory import REPORTS
from bfn_toolkit.shapes import leaves
from bfn_toolkit.storage.files import to_json, write_atomically
from bfn_toolkit.training.step import NonFiniteStep, TrainStep

MAX_LISTED = 100  # rows in a report


def diagnose(loop: TrainStep, data: Rows, index: Tensor, step: int) -> dict[str, Any]:
    """Repeats the loss and the gradient of a step, with its draws, and finds numbers in them that are not finite.

    Arguments:
        loop: The training step, with the weights before it.
        data: The training rows.
        index: Numbers of the rows of the step.
        step: Number of the step.
    Returns:
        ``first``, the first place in the order of computation: "data", "features" (of the beliefs), "output of the
        network", "loss" or "gradient"; ``rows``, the numbers of the rows concerned (of the whole batch, if there are
        none), with their ``t`` and ``row_losses``; ``gradient_norms`` by parameter.
    """
    batch, device = data[index].to(loop.device), loop.device
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(_: Any, arguments: tuple[Any, ...], raw: Any) -> None:
        if isinstance(raw, Tensor):
            seen.append((arguments[0], arguments[1], raw))

    hook = loop.unwrapped.register_forward_hook(look)
    try:
        loop.unwrapped.zero_grad()
        with seeded(loop.seed, step, device=device):
            batch = loop.prepare(batch)
            losses = loop.losses(BFN(loop.model.family, loop.unwrapped, loop.model.builder), batch)
        losses.mean().backward()  # type: ignore[no-untyped-call]
    finally:
        hook.remove()
    norms = {
        n: float(loop.full_tensor(p.grad.norm())) for n, p in loop.unwrapped.named_parameters() if p.grad is not None
    }
    places: dict[str, Callable[[], Tensor]] = {
        "data": lambda: _bad_rows(*leaves(batch.x)),
        "features": lambda: _bad_rows(*(features for features, _, _ in seen)),
        "output of the network": lambda: _bad_rows(*(raw for _, _, raw in seen)),
        "loss": lambda: _bad_rows(losses),
    }
    first, bad = "gradient", torch.zeros(len(index), dtype=torch.bool)
    for place, find in places.items():
        if (found := find()).any():
            first, bad = place, found
            break
    rows = torch.arange(len(index)) if not bad.any() else bad.nonzero().squeeze(1)
    t = seen[0][1].detach().cpu() if seen else torch.full((len(index),), torch.nan)
    return {
        "step": step,
        "first": first,
        "rows_concerned": int(bad.sum()),
        "rows": index[rows][:MAX_LISTED].tolist(),
        "t": t[rows][:MAX_LISTED].tolist(),
        "row_losses": losses.detach().cpu()[rows][:MAX_LISTED].tolist(),
        "gradient_norms": norms,
    }


def explained(
    error: NonFiniteStep, loop: TrainStep, experiment: Experiment, data: Rows, folder: Path | None
) -> NonFiniteError:
    """The error of a step, after writing a report on its origin into the run directory."""
    parts = {"network": experiment.network, "family": experiment.family, "loss": experiment.loss}
    names = ", ".join(f"{kind} {type(part).__module__}.{type(part).__name__}" for kind, part in parts.items())
    index = next(row_order(len(data), loop.training.batch_size, seed=loop.seed, start=error.step - 1))
    found = diagnose(loop, data, index, error.step)
    where = ""
    if folder is not None and folder.is_dir() and processes.is_main_process():
        path = folder / REPORTS / f"step-{error.step:08d}.json"
        try:
            write_atomically(path, to_json({"loss": error.loss, "grad_norm": error.norm, **found}) + "\n")
            where = f" Report: {path}."
        except ResourceError as problem:  # the training ends for the other reason
            where = f" There is no report: {problem}."
    return NonFiniteError(
        f"{error}, of {names}; first in the {found['first']}.{where} The step was not made. "
        "Lower training.lr, or check the data and these parts"
    )


def _bad_rows(*tensors: Tensor) -> Tensor:
    """Mask of rows with a number that is not finite, with shape (B,), on the CPU."""
    bad = [~torch.isfinite(v.detach().float()).flatten(1).all(1) if v.ndim > 1 else ~torch.isfinite(v) for v in tensors]
    return torch.stack(bad).any(0).cpu()
