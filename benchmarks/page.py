"""The table, and the page that records it."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from .rows import Row
from .timing import Ratio

PAGE = """\
# Benchmarks

What the toolkit adds to bare torch, as ratios of CPU time on one thread, made by

```bash
{command}
```

on {machine}. Times on other machines differ; the ratios of the small networks also differ somewhat, because they
depend on what the processor makes of many small operations. No figure here is from a GPU.

<!-- begin table -->
{table}
<!-- end table -->

{verdict}

## What the datasets are learned to

Each row is `bfn train --dataset NAME` without other options, and the result of `bfn evaluate` on fresh data (for
digits: on held-out images), made by `python -m benchmarks.learning --write docs/reference/benchmarks.md`. The known
entropy is the loss of a perfect model. It is that of a density, in nats, and may be of either sign, so that a share of
it means little where it is near zero: the next column divides by the cost of the messages, L inf, which is of one sign.
The recipes were chosen by such bounds, that of digits among four on these same images, so that its figure is a little
too good.

<!-- begin learning -->
<!-- end learning -->

## Networks on data of their kind

Digits, with their labels, by three networks in about the same CPU time, and polygons, triangles and squares in one
batch, by the equivariant network; made by `python -m benchmarks.networks --write docs/reference/benchmarks.md`. The
figure has two samples of each label.

<!-- begin networks -->
<!-- end networks -->

![digits of the data and of three networks](../figures/networks_digits.png)

## How to read it

*Bare* is the same network on the same input: forward, backward with a fixed output gradient, and a step of
`torch.optim.AdamW` with its defaults; no loss and no random number. *Step* is that with the continuous-time loss and
the same optimiser. *Loss alone* is the loss and its backward on a network of one parameter. *Whole loop* is
`bfn_toolkit.training.step.TrainStep.step`: seeded scope, loss, fused AdamW, clipping, moving average of the weights.
Batches from memory are those of `bfn_toolkit.minibatches`, an epoch at a time. An ancestral sample of n steps takes
n + 1 evaluations of the network.

*Textbook* is the same work written straight from the paper: times in the shape of the data, checked
`torch.distributions` objects, `DataLoader` batches; its source is `benchmarks/textbook.py`. Its loop has AdamW with
its defaults, clipping, a Python loop for the moving average and a read of the loss in each step.

All variants run in one process. Each of {rounds} rounds visits all of them in an order of its own and divides each
time by the bare time of the same round, so that a busy neighbour slows both; the figure is the median of these
ratios, in brackets its 95 % bootstrap interval. glibc is set to keep freed memory, because page faults would fall on
some variants by chance. Start-up is the CPU time of fresh interpreters, with fewer rounds.

Counts of operations and peaks of memory do not vary, so those are tests: `tests/repository/test_performance.py`.
"""


def cell(ratio: Ratio | None) -> str:
    """A figure with its interval."""
    if ratio is None:
        return ""
    digits = 4 if ratio.value < 0.1 else 1 if ratio.value >= 10 else 3
    return f"{ratio.value:.{digits}f} [{ratio.low:.{digits}f}, {ratio.high:.{digits}f}]"


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | ratio [95 % interval] | goal | textbook |", "|---|---|---|---|"]
    for row in rows:
        goal = "" if row.limit is None else f"{row.goal} {'>=' if row.at_least else '<='} {row.limit:g}"
        lines.append(f"| {row.what} | {cell(row.ratio)} | {goal} | {cell(row.textbook)} |")
    return "\n".join(lines)


def verdict(rows: Sequence[Row]) -> str:
    """Which goals are met, which are missed and by how much, and which the interval leaves open."""
    met, missed = [], []
    for row in rows:
        if row.limit is None:
            continue
        open_ = " (the interval covers the goal)" if row.ratio.low <= row.limit <= row.ratio.high else ""
        if (row.ratio.value >= row.limit) if row.at_least else (row.ratio.value <= row.limit):
            met.append(f"* {row.goal}, {row.what}{open_}")
        else:
            excess = row.ratio.value / row.limit - 1
            side = "below" if row.at_least else "above"
            missed.append(f"* {row.goal}, {row.what}: {abs(excess):.1%} {side} {row.limit:g}{open_}")
    parts = [("## Goals met", met), ("## Goals missed", missed or ["None."])]
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in parts)


def machine() -> str:
    """Processor, torch and threads."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread"


def _between(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- begin {name} -->\n?(.*?)\n?<!-- end {name} -->", re.S)


def replaced(text: str, name: str, lines: str) -> str:
    """The page with other lines between the marks of a name."""
    return _between(name).sub(lambda _: f"<!-- begin {name} -->\n{lines}\n<!-- end {name} -->", text)


def page(rows: Sequence[Row], command: str, rounds: int, before: str = "") -> str:
    """The whole page; what is learned is that of the page before."""
    parts = {"machine": machine(), "table": table(rows), "verdict": verdict(rows)}
    text = PAGE.format(command=command, rounds=rounds, **parts)
    for name in ("learning", "networks"):
        found = _between(name).search(before)
        text = replaced(text, name, found[1]) if found else text
    return text
