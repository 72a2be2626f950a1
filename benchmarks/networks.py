"""``python -m benchmarks.networks``: the networks on data of their kind: digits as images, and sets of points.

Digits of 8 x 8 pixels in 17 levels are learned with labels by the perceptron, the U-Net and the transformer, for about
the same CPU time.  Polygons, rigid triangles and squares in one batch, are learned by the equivariant network; what is
known of them is their shares, their edges and diagonals, and that turned data are as likely.

``--write PAGE`` puts the tables between the marks "begin networks" and "end networks" of a page, and the figure of the
digits into the folder ``figures`` beside the page's folder.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bfn_polygons import Polygons, distances
from bfn_toolkit import Run, seeded, sliced_w1
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.evaluation.likelihood import likelihood_bound
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.training.trainer import train

from . import page

TRAINING = {"lr": 1e-3, "warmup": 50, "ema_decay": 0.99}
# Steps that take about the same CPU time on one thread.
DIGITS: dict[str, tuple[dict[str, Any], int, int]] = {
    "mlp": ({"name": "mlp", "dropout": 0.1}, 512, 2400),
    "unet": ({"name": "unet", "dropout": 0.1}, 128, 900),
    "transformer": ({"name": "transformer", "width": 96, "depth": 3, "patch": 2, "dropout": 0.1}, 128, 1300),
}
DIGITS_HEAD = (
    "| network | parameters | steps | CPU seconds | bound, nats | bits per dimension | sliced W1 of 300 samples "
    "(two halves of the data) |\n|---|---|---|---|---|---|---|"
)
POINTS_HEAD = (
    "| points | share (asked for) | edges, data 2 | error of the edges | diagonals, data 2.828 "
    "| change of a price by a turn |\n|---|---|---|---|---|---|"
)


def trained(dataset: object, network: object, steps: int, rows: int, **training: Any) -> tuple[Run, float]:
    """A run in memory, and the CPU seconds of its training."""
    options = {**TRAINING, "steps": steps, "batch_size": rows, **training}
    tables = {"dataset": dataset, "network": network, "training": options}
    start = time.process_time()
    run = train(Experiment.from_mapping(tables, base="default"))
    return run, time.process_time() - start


def digits(name: str, share: float) -> tuple[str, Tensor]:
    """A line of the table of digits, and samples: four of each label."""
    network, rows, steps = DIGITS[name]
    steps = max(60, round(share * steps))
    run, seconds = trained("digits", network, steps, rows)
    bound = likelihood_bound(run.model, run.split("test"), draws=30)
    samples = ResolvedPlan.of(run, SamplePlan(n=300, steps=50)).draw()
    data = run.split("all").x
    floor = sliced_w1(data[::2], data[1::2])
    size = sum(p.numel() for p in run.model.parameters())
    cells = [name, f"{size:,}", f"{steps:,}", f"{seconds:.0f}", f"{bound.total.value:.2f} ± {bound.total.stderr:.2f}"]
    cells += [f"{bound.bits_per_dimension.value:.3f}", f"{sliced_w1(samples, data):.3f} ({floor:.3f})"]
    with seeded("sheet"):
        labels = torch.arange(10).repeat_interleave(4)
        sheet = run.model.sample(40, n_steps=50, condition={"label": labels})
    return "| " + " | ".join(cells) + " |", sheet


def turned_price(run: Run) -> float:
    """Largest change of the loss rate of an example, over 1 + its value, as data and beliefs turn by a random angle."""
    rows, family = run.split("test").rows(torch.arange(200)), run.model.family
    with seeded("turn"):
        t, angle = torch.rand(200), 2.0 * math.pi * torch.rand(())
        params = family.flow(rows.x, t)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    with torch.no_grad():
        output = run.model.output(params, t, mask=rows.mask)
        moved = type(params)(params.mean @ turn.T, params.precision)
        turned = run.model.output(moved, t, mask=rows.mask)
        prices = family.loss_rate(rows.x, output, t, mask=rows.mask)
        others = family.loss_rate(rows.x @ turn.T, turned, t, mask=rows.mask)
    return float(((prices - others).abs() / (1.0 + prices)).max())


def polygons(share: float) -> list[str]:
    """Lines of the table of polygons, and one on the price."""
    run, seconds = trained("polygons", "egnn", max(60, round(2000 * share)), 256)
    data = run.experiment.dataset
    assert isinstance(data, Polygons)
    samples = ResolvedPlan.of(run, SamplePlan(n=1000, steps=50)).draw()
    sizes = (samples != 0.0).any(-1).sum(1)
    lines = [POINTS_HEAD]
    error = turned_price(run)
    for corners, wanted in ((3, data.triangles), (4, 1.0 - data.triangles)):
        of_size = samples[sizes == corners]
        lengths = distances(of_size, corners)
        edges, diagonals = lengths[:, :corners], lengths[:, corners:]
        cells = [str(corners), f"{len(of_size) / len(samples):.3f} ({wanted:.3f})", f"{float(edges.mean()):.4f}"]
        cells.append(f"{float((edges - 2.0).square().mean().sqrt()):.4f}")
        cells += [f"{float(diagonals.mean()):.4f}" if diagonals.numel() else "", f"{error:.1e}"]
        lines.append("| " + " | ".join(cells) + " |")
    rows = run.split("test")
    bound = likelihood_bound(run.model, rows, draws=20)
    lines += [
        "",
        f"Bound {bound.total.value:.2f} ± {bound.total.stderr:.2f} nats, {bound.nats_per_dimension.value:.3f} for each "
        f"present number; messages {bound.messages.value:.2f}; {seconds:.0f} CPU seconds of training.",
    ]
    return lines


def draw(sheets: dict[str, Tensor], data: Tensor, path: Path) -> None:
    """Digits of the data and of each network, one row each, ten labels side by side."""
    from matplotlib.figure import Figure

    rows = {"data": data, **sheets}
    figure = Figure(figsize=(9.0, 1.1 * len(rows)), layout="constrained")
    for axis, (name, images) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        sheet = images[::2].permute(1, 0, 2).reshape(8, -1)
        axis.imshow(sheet.cpu(), cmap="gray_r", vmin=-1.0, vmax=1.0, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page to write into")
    parser.add_argument("--share", type=float, default=1.0, help="share of the training steps, to try it quickly")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines, sheets = [DIGITS_HEAD], {}
    for name in DIGITS:
        line, sheets[name] = digits(name, options.share)
        lines.append(line)
        print(line, file=sys.stderr, flush=True)
    lines += ["", *polygons(options.share)]
    print("\n".join(lines))
    if options.write:
        options.write.write_text(page.replaced(options.write.read_text(), "networks", "\n".join(lines)))
        rows = Experiment.from_mapping({"dataset": "digits"}, base="default").dataset.split("all")
        firsts = torch.cat([(rows.condition["label"] == label).nonzero()[:4, 0] for label in range(10)])
        draw(sheets, rows.x[firsts], options.write.parent.parent / "figures" / "networks_digits.png")


if __name__ == "__main__":
    main()
