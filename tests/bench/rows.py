"""The rows of the table: which ratio answers which goal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import startup, workloads
from .timing import Ratio, Variant, interleave, process_time, ratios

N_STEPS = 100
BARE = "bare"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Arguments:
        goal: Name of the goal, where there is one.
        what: What was divided by what.
        ratio: The toolkit's figure.
        limit: The goal's limit.
        textbook: The same of the textbook code.
    """

    goal: str
    what: str
    ratio: Ratio
    limit: float | None = None
    textbook: Ratio | None = None


def measure(variants: Mapping[str, Variant], rounds: int) -> dict[str, Ratio]:
    """Ratios to bare."""
    return ratios(interleave(variants, rounds, clock=process_time), BARE)


def training(rounds: int) -> Iterator[Row]:
    """Steps, loops and batches."""
    goals = (("T1", 1.08, "T6", 1.08), ("T2", 1.10, "T6", 1.08))
    for work, (step, step_limit, loop, loop_limit) in zip(workloads.WORKLOADS, goals, strict=True):
        r = measure(workloads.training(work, repeats=2), rounds)
        name = f"{work.name}, B={work.batch_size}: "
        yield Row(step, name + "step, same optimiser", r["step"], step_limit, r["textbook step"])
        yield Row("", name + "loss alone, share of the bare step", r["loss"], None, r["textbook loss"])
        yield Row("", name + "step with fused AdamW", r["fused step"])
        yield Row(loop, name + "whole loop", r["loop"], loop_limit, r["textbook loop"])
    for work, limit in zip(workloads.BINNED, (1.8, 1.9), strict=True):
        r = measure(workloads.discretised(work), rounds)
        name = f"{work.name}, B={work.batch_size}: "
        yield Row("T4", name + "step, same optimiser", r["step"], limit, r["textbook step"])
        yield Row("", name + "loss alone, share of the bare step", r["loss"], None, r["textbook loss"])
    a, b = workloads.WORKLOADS
    r = measure(workloads.feeding(a), rounds)
    yield Row("T7", f"{a.name}: batches from memory, share of the bare step", r["feeding"], 0.01, r["textbook feeding"])
    r = measure(workloads.training(b, rows=8, repeats=10), rounds)
    yield Row("T8", f"{b.name}, B=8: step with fused AdamW", r["fused step"], 1.10)
    yield Row("", f"{b.name}, B=8: step, same optimiser", r["step"], None, r["textbook step"])
    yield Row("", f"{b.name}, B=8: whole loop", r["loop"], None, r["textbook loop"])


def sampling(rounds: int) -> Iterator[Row]:
    """Ancestral sampling."""
    for work in workloads.WORKLOADS:
        r = measure(workloads.sampling(work, N_STEPS), rounds)
        name = f"{work.name}, B={work.sampler_batch_size}: "
        ours, textbook = r["ancestral"], r["textbook ancestral"]
        yield Row("", name + f"ancestral, {N_STEPS} steps / {N_STEPS} bare forwards", ours, None, textbook)
        share = N_STEPS / (N_STEPS + 1)  # n steps take n + 1 evaluations
        yield Row("S2", name + "ancestral, per evaluation", ours.scaled(share), 1.15, textbook.scaled(share))


def starting(rounds: int) -> Iterator[Row]:
    """Command line and imports."""
    times = interleave(startup.COMMANDS, rounds, clock=startup.child_time, warm_up=1)
    for name, ratio in ratios(times, "pass").items():
        if name != "pass":
            yield Row("U1", f"`bfn {name}` / `python -c pass`", ratio, 8.0)
    times = interleave(startup.IMPORTS, max(rounds // 3, 5), clock=startup.child_time, warm_up=1)
    r = ratios(times, "torch")
    yield Row("U2", "`import bfn_toolkit` / `import torch`", r["bfn_toolkit"], 1.05)
    yield Row("U2", "`from bfn_toolkit import BFN, train` and a family / `import torch`", r["in use"], 1.05)
