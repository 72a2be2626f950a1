"""``python -m benchmarks.gpu``: what must hold on a CUDA device, in minutes; ``--write PAGE`` records it.

Without a CUDA device it says so and ends with status 0.  ``--device cpu`` tries the checks themselves.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bfn_toolkit import BFN, ContinuousTimeLoss, Experiment, Training, TrainingEvent, resume, seeded, train
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.errors import BFNError, NonFiniteError
from bfn_toolkit.parallel.signals import Interrupted
from bfn_toolkit.registry import default_registry
from bfn_toolkit.runs.run import Run
from bfn_toolkit.sampling import chunks
from bfn_toolkit.testing.kit import verdicts
from bfn_toolkit.testing.subjects import find_subjects
from bfn_toolkit.training.step import TrainStep

from . import page, workloads
from .timing import Variant, interleave, ratios

SECONDS = 480.0  # for everything
LAWS_SECONDS = 240.0
LAWS = ("family", "loss", "network", "sampler", "schedule")
MARKS = "<!-- begin gpu -->", "<!-- end gpu -->"


@dataclass(frozen=True)
class Finding:
    """Result of a check: its name, what was found, and whether that is as it should be (None for a mere number)."""

    check: str
    result: str
    passed: bool | None = None


def experiment(device: str, **training: Any) -> Experiment:
    """A small network on eight sites of real numbers."""
    options = {"steps": 40, "batch_size": 64, "device": device, "lr": 1e-3, "checkpoint_every": 20, **training}
    return Experiment.from_mapping({"dataset": "digits", "network": "mlp", "training": options}, base="default")


def laws(device: str) -> Iterator[Finding]:
    """The laws of every built-in component, with the device as torch's default; few examples of each."""
    registry, counts = default_registry(), Counter[str]()
    began = time.monotonic()
    names = [item.name for item in registry.entries() if item.kind in LAWS]
    for name in dict.fromkeys(names):
        for subject in find_subjects(name, registry):
            if subject.kind not in LAWS or time.monotonic() - began > LAWS_SECONDS:
                counts["subjects left out"] += 1
                continue
            try:
                with torch.device(device):
                    for verdict in verdicts(subject, examples=3):
                        counts["hold" if verdict.passed else "broken"] += 1
                        if not verdict.passed:
                            yield Finding(f"law {verdict.law.name} of {name}", str(verdict.fault)[:200], False)
            except Exception as error:
                counts["stopped"] += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                reason = f"{type(error).__name__}: {str(error)[:160]} ({Path(place.filename).name}:{place.lineno})"
                yield Finding(f"laws of {name}", reason, False)
    found = ", ".join(f"{count} {what}" for what, count in counts.items())
    yield Finding("laws of the built-ins", found, not counts["broken"] and not counts["stopped"])


def step_of(device: str, network: nn.Module | None = None, **training: Any) -> tuple[TrainStep, Batch]:
    """A training step, and a batch on the device."""
    work = workloads.WORKLOADS[1]
    with torch.device(device):
        model, x = BFN(work.family, network or work.build()), work.data(64)
    options = Training(device=device, batch_size=64, ema_decay=0.99, clip_norm=1.0, **training)
    return TrainStep(model.to(device), ContinuousTimeLoss(), options, seed=0), Batch(x.to(device))


def synchronisations(device: str) -> Iterator[Finding]:
    """Waits for the device in 20 steps of the training."""
    step, batch = step_of(device)
    for number in range(3):
        step.step(batch, number)
    if device == "cpu":
        yield Finding("hidden synchronisations in 20 steps", "cannot be counted on the CPU")
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number in range(3, 23):
                step.step(batch, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
    found = ", ".join(f"{place} {count} times" for place, count in places.most_common(5)) or "none"
    yield Finding("hidden synchronisations in 20 steps", found, not places)


class Poisoned(nn.Module):
    """A network whose output is NaN from a call on."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.inner, self.calls, self.call = workloads.MLP(64), 0, call

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.inner(features, t)
        return out * float("nan") if self.calls > self.call else out


def precisions(device: str) -> Iterator[Finding]:
    """Training in half precision falls, and a step that is not finite leaves the weights alone."""
    for precision in ("bf16", "fp16"):
        if precision == "fp16" and device == "cpu":
            continue
        losses = [m["loss"] for m in train(experiment(device, precision=precision, steps=100)).metrics if "loss" in m]
        first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
        yield Finding(f"training in {precision}", f"loss {first:.3g} in steps 1-10, {last:.3g} in 91-100", last < first)
    step, batch = step_of(device, Poisoned(3))
    stopped = ""
    for number in range(6):
        try:
            _, norm = step.step(batch, number)
            stopped = stopped or ("skipped" if not norm.isfinite() else "")
        except (NonFiniteError, ArithmeticError, RuntimeError) as error:
            stopped = type(error).__name__
            break
    finite = all(bool(p.isfinite().all()) for p in step.parameters)
    yield Finding("steps that are not finite", f"{stopped or 'not noticed'}; weights finite: {finite}", finite)


def resumed(device: str) -> Iterator[Finding]:
    """A training that is stopped and resumed ends with the same bits."""
    with TemporaryDirectory() as folder:
        whole = train(experiment(device), Path(folder) / "whole")

        def stop(event: TrainingEvent) -> None:
            if event.step == 20:
                signal.raise_signal(signal.SIGTERM)

        with suppress(Interrupted):
            train(experiment(device), Path(folder) / "part", callbacks=[stop])
        part = resume(Path(folder) / "part")
        pairs = zip(whole.model.state_dict().items(), part.model.state_dict().values(), strict=True)
        different = [name for (name, a), b in pairs if not torch.equal(a, b)]
    yield Finding("exact resume", ", ".join(different) or "bit-identical", not different)


def samples(device: str) -> Iterator[Finding]:
    """Samples do not depend on the memory: a small share of it only makes the chunks smaller."""
    run: Run = train(experiment(device, steps=2))
    model, n = run.model.to(device), 4096
    numbers, _ = chunks.row_numbers(model.family)

    def draw() -> Tensor:
        with seeded(0, device=device):
            samples = model.sample(n, n_steps=4)
        assert isinstance(samples, Tensor)
        return samples

    free = draw()
    yield Finding("rows of a chunk, for digits", f"{chunks.chunk_rows(numbers, device):,}")
    if device == "cpu":
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    draw()
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.7 * peak / total))
    try:
        tight = draw()
        same = torch.equal(free, tight)
        yield Finding("samples in 70 % of the memory", f"the same bits: {same}", same)
    except BFNError as error:
        yield Finding("samples in 70 % of the memory", str(error)[:200], None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def sharded(device: str) -> Iterator[Finding]:
    """Sharded weights on one device."""
    if device == "cpu":
        return
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m"]
        command += ["bfn_toolkit", "train", "--out", f"{folder}/run", "--no-report", "--training.parallel", "fsdp"]
        command += ["--training.device", "cuda", "--training.steps", "20", "--training.batch_size", "64"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        yield Finding("fsdp on one device", "20 steps" if not done.returncode else lines[-1][:200], not done.returncode)


def speeds(device: str) -> Iterator[Finding]:
    """Ratios to bare torch, in time on the device."""

    def clock(variant: Variant) -> float:
        start = time.perf_counter_ns()
        for _ in range(variant.repeats):
            variant.run()
        if device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter_ns() - start) / variant.repeats

    for work in workloads.WORKLOADS:
        with torch.device(device):
            found = workloads.training(work, repeats=10 if device != "cpu" else 1)
            wanted = {name: found[name] for name in ("bare", "step", "fused step", "textbook step")}
            measured = ratios(interleave(wanted, 30 if device != "cpu" else 3, clock=clock), "bare")
        for name in ("step", "fused step", "textbook step"):
            yield Finding(f"{work.name}, B={work.batch_size}: {name} / bare", page.cell(measured[name]))


CHECKS: tuple[Callable[[str], Iterator[Finding]], ...] = (
    synchronisations,
    precisions,
    resumed,
    samples,
    sharded,
    speeds,
    laws,
)


def found(device: str) -> Iterator[Finding]:
    """The findings of all checks; one that fails costs only itself."""
    began = time.monotonic()
    for check in CHECKS:
        if time.monotonic() - began > SECONDS:
            yield Finding(check.__name__, "no time left", False)
            continue
        try:
            yield from check(device)
        except Exception as error:
            yield Finding(check.__name__, f"{type(error).__name__}: {str(error)[:200]}", False)


def table(findings: list[Finding]) -> str:
    """The findings as a table of a page."""
    words = {None: "", True: "yes", False: "**no**"}
    rows = (f"| {f.check} | {' '.join(f.result.split()).replace('|', ' ')} | {words[f.passed]} |" for f in findings)
    return "\n".join(["| check | result | as it should be |", "|---|---|---|", *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the checks themselves")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page to write: docs/reference/gpu.md")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        print("there is no CUDA device: nothing was checked")
        return 0
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    findings = []
    for finding in found(options.device):
        findings.append(finding)
        print(f"{finding.check}: {finding.result}{'  FAILED' * (finding.passed is False)}", flush=True)
    where = "the CPU" if options.device == "cpu" else torch.cuda.get_device_name(0)
    text = f"On {where}, torch {torch.__version__}:\n\n{table(findings)}"
    if options.write:
        before = options.write.read_text(encoding="utf-8")
        begin, end = map(re.escape, MARKS)
        marked = f"{MARKS[0]}\n{text}\n{MARKS[1]}"
        options.write.write_text(re.sub(f"(?s){begin}.*{end}", lambda _: marked, before), encoding="utf-8")
    return int(any(finding.passed is False for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
