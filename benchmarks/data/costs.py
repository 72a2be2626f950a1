"""What a model costs beside its training: the report, a sample, memory.

The report is measured as ``bfn train`` writes it, after a minute of training of a U-Net and of a transformer.  A sample
is compared with the network alone: as many evaluations, of the rows asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bfn_toolkit import Run as TrainedRun
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.reports.report import complete_run
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.training.trainer import train

from .. import memory
from ..timing import Variant, interleave, process_time, ratios
from .common import Result, Run, cpu_time, steps_for, with_steps
from .images import FASHION
from .text import kjv_file

SECONDS, STEPS = 60.0, 20
COUNTS = {1: 7, 16: 3}  # samples asked for: rounds of the comparison


def costs(quick: bool) -> Result:
    """All of it."""
    found: Result = {"memory": memory.measured(*((0.2, 0.1) if quick else (10.0, 0.5)))}
    for name, path, preset in (("U-Net, images", FASHION, None), ("transformer, text", kjv_file(), "text8-small")):
        setting = Experiment.from_path(path, preset=preset)
        with tempfile.TemporaryDirectory() as folder:
            steps = 20 if quick else steps_for(setting, SECONDS)
            cost: dict[str, float] = {}
            began = time.monotonic()
            with cpu_time(cost, "training, CPU"):
                run = train(with_steps(setting, steps), Path(folder) / "run")
            trained = time.monotonic()
            with cpu_time(cost, "report, CPU"):
                complete_run(ResolvedPlan.of(run, SamplePlan()), lambda line: print(line, file=sys.stderr))
            found[name] = {"training": trained - began, "report": time.monotonic() - trained, **cost}
            found[name]["sampling"] = {str(n): sampling(run, n, 2 if quick else most) for n, most in COUNTS.items()}
            found[name]["command"] = command(run)
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def sampling(run: TrainedRun, n: int, rounds: int) -> dict[str, float]:
    """CPU time of n samples over that of the network on n rows, as often; and the rows that it was run on."""
    plan = ResolvedPlan.of(run, SamplePlan(n=n, steps=STEPS))
    calls: list[tuple[Any, Mapping[str, Any]]] = []
    network = run.model.network
    with network.register_forward_pre_hook(lambda _, args, options: calls.append((args, options)), with_kwargs=True):
        plan.draw()
    (args, options), rows = calls[0], len(calls[0][0][0])
    args = [part[:n] for part in args]
    options = {name: part[:n] if isinstance(part, torch.Tensor) else part for name, part in options.items()}

    @torch.inference_mode()
    def alone() -> None:
        for _ in calls:
            network(*args, **options)

    variants = {"alone": Variant(alone), "draw": Variant(plan.draw)}
    found = ratios(interleave(variants, rounds, clock=process_time, warm_up=1), "alone")["draw"]
    return {"ratio": found.value, "low": found.low, "high": found.high, "rows": rows}


def command(run: TrainedRun) -> float:
    """CPU seconds of ``bfn sample RUN -n 1``, from the start of Python to its end."""
    assert run.path is not None
    words = ["sample", str(run.path), "-n", "1", "--steps", str(STEPS), "--out", str(run.path / "one.npy")]
    before = os.times()
    subprocess.run([sys.executable, "-m", "bfn_toolkit", *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


RUNS = {"costs": Run(costs, 6)}


def section(results: Mapping[str, Result]) -> str:
    """The saved figures."""
    result = results.get("costs")
    if result is None:
        return ""
    kinds = {name: found for name, found in result.items() if isinstance(found, dict) and "report" in found}
    lines = [
        "## Report, a sample, memory",
        "",
        "The report after training has the samples, the scores, the figures and the page; its budget is in time that "
        "passes, as are these seconds, of which a busy machine makes more. A sample is compared with "
        f"the network alone: as many evaluations of the rows asked for, {STEPS} here, with the 95 % interval. The "
        "command is `bfn sample RUN -n 1` from its start to its end.",
        "",
        "| | training | report | 1 sample / network | 16 samples / network | command |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in kinds.items():
        drawn = [f"{x['ratio']:.2f} [{x['low']:.2f}, {x['high']:.2f}]" for x in found["sampling"].values()]
        share = f"{found['report']:.1f} s ({found['report'] / found['training']:.0%})"
        lines.append(
            f"| {name} | {found['training']:.0f} s | {share} | {' | '.join(drawn)} | {found['command']:.1f} CPU s |"
        )
    used = result["memory"]
    lines += [
        "",
        f"Training on a memory map of 10 GB takes {used['process']:.2f} GB of memory. Data of bytes in memory take "
        f"{used['held']:.2f} times their bytes, beyond what a training on little data takes.",
    ]
    return "\n".join(lines)
