"""Which state of a run, and which samples of it: the options of the commands that ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfn_toolkit.cli.display import say
from bfn_toolkit.cli.parameters import POSITIVE, SEED
from bfn_toolkit.errors import ConfigError

if TYPE_CHECKING:
    from bfn_toolkit.runs.run import Run
    from bfn_toolkit.runs.sampling import SamplePlan


def trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of what a run may hold."""
    for option in (
        click.option("--allow-nonfinite", is_flag=True, help="Take weights that are NaN or infinite."),
        click.option("--allow-plugin-mismatch", is_flag=True, help="Take plugins of another major version."),
    ):
        command = option(command)
    return command


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of :func:`open_run` and :func:`make_plan`."""
    for option in (
        click.option("--seed", type=SEED, help="Seed of the draws  [default: that of the run]"),
        click.option("--sampler", help="Sampler, by name  [default: what suits family and steps]"),
        click.option("--verbose", is_flag=True, help="Say which sampler is used, and why."),
        click.option("-n", "n", type=POSITIVE, default=1000, show_default=True, help="Number of samples."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
        click.option(
            "--checkpoint",
            default="final",
            show_default=True,
            metavar="final|last|best|STEP",
            help="Which state of the training.",
        ),
        click.option(
            "--weights",
            type=click.Choice(["auto", "ema", "raw"]),
            default="auto",
            show_default=True,
            help="The moving average of the weights, or the weights themselves; auto: the average where there is one.",
        ),
        trust_options,
    ):
        command = option(command)
    return command


def open_run(path: Path, choice: Mapping[str, Any]) -> Run:
    """The run of a command, on its device; under torchrun, among the processes of the job."""
    from bfn_toolkit.config.experiment import Training
    from bfn_toolkit.parallel.devices import make_accelerator
    from bfn_toolkit.runs.run import Run, is_pretrained

    which = {name: choice[name] for name in ("checkpoint", "weights")}
    trust = {name: choice[name] for name in ("allow_nonfinite", "allow_plugin_mismatch")}
    if is_pretrained(path):
        if which != {"checkpoint": "final", "weights": "auto"}:
            raise ConfigError(f"{path} is a saved model, which has one state; leave out --checkpoint and --weights")
        run = Run.of_pretrained(path, **trust)
    else:
        run = Run.open(path, **which, **trust)
    run.model.to(make_accelerator(Training(device=choice["device"])).device)
    say(f"weights: {run.weights}")
    return run


def make_plan(
    run: Run,
    steps: int | None = None,
    *,
    n: int = 1000,
    sampler: str | None = None,
    seed: int | None = None,
    verbose: bool = False,
    condition: Sequence[str] = (),
    guidance: float = 0.0,
    known: Path | None = None,
    **_: Any,
) -> SamplePlan:
    """The samples that the options of a command ask for."""
    from bfn_toolkit.runs.sampling import STEPS, SamplePlan

    steps = steps or run.model.family.n_steps or STEPS
    plan = SamplePlan(
        n=n,
        steps=steps,
        sampler=sampler,
        seed=run.experiment.seed if seed is None else seed,
        condition=parse_conditions(condition),
        guidance=guidance,
        known=known,
    )
    if verbose:
        name, chosen, reason = plan.choose(run.model.family)
        say(f"sampler: {name}, {reason}; {chosen.nfe(steps)} evaluations of the network")
        say(f"  {chosen}")
    return plan


def parse_conditions(arguments: Sequence[str]) -> dict[str, float | None]:
    """Values by name from ``label=3``; None from ``label=none``.

    Raises:
        ConfigError: If an argument has another form.
    """
    conditions: dict[str, float | None] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            conditions[name] = None if value == "none" else float(value)
        except ValueError:
            raise ConfigError(
                f"--condition takes NAME=NUMBER or NAME=none, such as label=3, got '{argument}'"
            ) from None
    return conditions
