"""The rows of the table: which ratio answers which goal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from . import memory, startup, textbook, workloads
from .timing import Ratio, Variant, interleave, process_time, ratios
from .workloads import SIGMA_1

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
        at_least: Whether the limit is the least that will do.
    """

    goal: str
    what: str
    ratio: Ratio
    limit: float | None = None
    textbook: Ratio | None = None
    at_least: bool = False


def measure(variants: Mapping[str, Variant], rounds: int) -> dict[str, Ratio]:
    """Ratios to bare."""
    return ratios(interleave(variants, rounds, clock=process_time), BARE)


def training(rounds: int) -> Iterator[Row]:
    """Steps, loops and batches."""
    goals = (("T1", 1.08, "T6", 1.08), ("T2", 1.10, "T6", 1.05))
    for work, (step, step_limit, loop, loop_limit) in zip(workloads.WORKLOADS, goals, strict=True):
        r = measure(workloads.training(work, repeats=2), rounds)
        name = f"{work.name}, B={work.batch_size}: "
        yield Row(step, name + "step, same optimiser", r["step"], step_limit, r["textbook step"])
        yield Row("", name + "loss alone, share of the bare step", r["loss"], None, r["textbook loss"])
        yield Row("", name + "step with fused AdamW", r["fused step"])
        yield Row(loop, name + "whole loop", r["loop"], loop_limit, r["textbook loop"])
    for work, limit in zip(workloads.BINNED, (1.8, 1.9), strict=True):
        bins = work.family.head.bins
        r = measure(workloads.of_family(work, partial(textbook.discretised_loss, sigma_1=SIGMA_1, bins=bins)), rounds)
        name = f"{work.name}, B={work.batch_size}: "
        yield Row("T4", name + "step, same optimiser", r["step"], limit, r["textbook step"])
        yield Row("", name + "loss alone, share of the bare step", r["loss"], None, r["textbook loss"])
    work = workloads.CLASSES
    r = measure(workloads.of_family(work, partial(textbook.classes_loss, family=work.family)), rounds)
    name = f"{work.name}, B={work.batch_size}: "
    yield Row("T3", name + "step, same optimiser", r["step"], 1.28, r["textbook step"])
    yield Row("", name + "loss alone, share of the bare step", r["loss"], None, r["textbook loss"])
    yield Row("T6", name + "whole loop", r["loop"], 1.12)
    for work in workloads.PIXELS:
        r = measure(workloads.pixels(work), max(rounds // 4, 5))
        yield Row("T5", f"{work.name}, B={work.batch_size}: loss alone, share of the bare step", r["loss"], 0.005)
    r = ratios(interleave(workloads.two_classes(), rounds, clock=process_time), "loss")
    yield Row("T10", "two classes: textbook / loss alone", r["textbook loss"], 7.0, at_least=True)
    r = ratios(interleave(workloads.two_classes(), max(rounds // 4, 5), clock=process_time), "ancestral")
    yield Row("S4", "two classes: textbook / ancestral sampler alone", r["textbook ancestral"], 2.0, at_least=True)
    r = measure(workloads.discrete_loss(), rounds)
    yield Row("D1", "256 classes, loss alone: n steps / continuous time", r["discrete"], 2.0)
    a, b = workloads.WORKLOADS
    r = measure(workloads.feeding(a), rounds)
    yield Row("T7", f"{a.name}: batches from memory, share of the bare step", r["feeding"], 0.01, r["textbook feeding"])
    r = measure(workloads.training(b, rows=8, repeats=10), rounds)
    yield Row("T8", f"{b.name}, B=8: step with fused AdamW", r["fused step"], 1.10)
    yield Row("", f"{b.name}, B=8: step, same optimiser", r["step"], None, r["textbook step"])
    yield Row("", f"{b.name}, B=8: whole loop", r["loop"], None, r["textbook loop"])


def sampling(rounds: int) -> Iterator[Row]:
    """Ancestral sampling, and the solvers, whose n steps take n evaluations."""
    solver_limits = {work.name: ("S1", 1.05) for work in workloads.WORKLOADS}
    solver_limits[workloads.CLASSES.name] = ("S3", 1.35)
    for work in workloads.BINNED:
        r = measure(workloads.sampling(work, N_STEPS), max(rounds // 4, 5))
        name = f"{work.name}, B={work.sampler_batch_size}: "
        yield Row("S6", name + f"ODE2, {N_STEPS} steps / {N_STEPS} bare forwards", r["ODE2"], 1.3)
        yield Row("", name + f"SDE2, {N_STEPS} steps / {N_STEPS} bare forwards", r["SDE2"])
    for work, limit in (*((work, 1.15) for work in workloads.WORKLOADS), (workloads.CLASSES, 1.8)):
        r = measure(workloads.sampling(work, N_STEPS), rounds)
        name = f"{work.name}, B={work.sampler_batch_size}: "
        ours, textbook = r["ancestral"], r["textbook ancestral"]
        yield Row("", name + f"ancestral, {N_STEPS} steps / {N_STEPS} bare forwards", ours, None, textbook)
        share = N_STEPS / (N_STEPS + 1)  # n steps take n + 1 evaluations
        yield Row("S2", name + "ancestral, per evaluation", ours.scaled(share), limit, textbook.scaled(share))
        goal, most = solver_limits[work.name]
        yield Row(goal, name + f"ODE2, {N_STEPS} steps / {N_STEPS} bare forwards", r["ODE2"], most)
        yield Row("", name + f"SDE2, {N_STEPS} steps / {N_STEPS} bare forwards", r["SDE2"])
    for classes, least in ((27, 4.0), (256, 7.0)):
        r = measure(workloads.class_draws(classes), rounds)
        yield Row("S5", f"`torch.multinomial` / a draw of {classes} classes", r["multinomial"], least, at_least=True)


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


def resident(_: int) -> Iterator[Row]:
    """Resident memory, which is measured once: it does not vary."""
    found = {name: Ratio(value, value, value) for name, value in memory.measured(mapped=10.0, held=0.5).items()}
    yield Row("M1", "a memory map of 10 GB: largest resident memory of its training, in GB", found["process"], 2.0)
    yield Row("M2", "bytes in memory: largest resident memory / bytes", found["held"], 1.5)
