"""``python -m benchmarks.learning``: how well each dataset's recipe learns it, beside what is known of the optimum.

Each row is one ``bfn train`` of the dataset with nothing else said, and its held-out bound.  ``--write PAGE`` puts the
table between the marks "begin learning" and "end learning" of a page.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.reports.report import evaluate
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan
from bfn_toolkit.training.trainer import train

from . import page

DATASETS = {
    "gaussian-mixture": "gaussian-mixture",
    **{
        f"toy2d, {shape}": {"name": "toy2d", "shape": shape}
        for shape in ("moons", "rings", "checkerboard", "pinwheel", "spirals")
    },
    "torus": "torus",
    "markov": "markov",
    "mixed": "mixed",
    "digits": "digits",
}
HEAD = (
    "| dataset | family | known entropy, nats | bound, nats | above the entropy | of L inf | bits per dimension "
    "| distance of 1,000 samples | CPU seconds of training |\n|---|---|---|---|---|---|---|---|---|"
)


def distance(scores: dict[str, object]) -> str:
    """The distances of samples from data, in words."""
    known = [f"{key} {value:.3f}" for key, value in scores.items() if key in ("w1", "sliced_w1", "tv_site", "tv_pair")]  # type: ignore[str-format]
    parts = scores.get("parts", {})
    assert isinstance(parts, dict)
    return ", ".join([*known, *(f"{name}: {distance(part)}" for name, part in parts.items())])


def row(name: str, dataset: object) -> str:
    """One line of the table."""
    experiment = Experiment.from_mapping({"dataset": dataset}, base="default")
    start = time.process_time()
    run = train(experiment)
    seconds = time.process_time() - start
    scores = evaluate(ResolvedPlan.of(run, SamplePlan()), draws=20 if name != "digits" else 400)
    bound, error, messages = scores["total_nats"], scores["total_nats_stderr"], scores["loss_nats"]
    cells = [name, type(experiment.family).__name__]
    if hasattr(experiment.dataset, "entropy"):
        entropy = experiment.dataset.entropy()[0]
        gap = bound - entropy
        cells += [f"{entropy:.3f}", f"{bound:.3f} ± {error:.3f}", f"{gap:.3f} ({gap / abs(entropy):.1%})"]
        cells.append(f"{gap / messages:.1%}")
    else:
        cells += ["", f"{bound:.2f} ± {error:.2f}", "", ""]
    cells += [f"{scores['bits_per_dimension']:.3f}", distance(scores["samples"]), f"{seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="page to write into, such as docs/reference/benchmarks.md"
    )
    parser.add_argument("names", nargs="*", help="datasets; all of them if none is given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [HEAD]
    for name, dataset in DATASETS.items():
        if not options.names or name.split(",")[0] in options.names:
            lines.append(row(name, dataset))
            print(lines[-1], file=sys.stderr, flush=True)
    if options.write:
        options.write.write_text(page.replaced(options.write.read_text(), "learning", "\n".join(lines)))


if __name__ == "__main__":
    main()
