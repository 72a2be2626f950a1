"""SMILES of the MOSES benchmark: prices beside n-grams, and the shares of valid, unique and new strings."""

from __future__ import annotations

import gzip
import json
import math
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bfn_lines import Lines
from bfn_toolkit import Run as TrainedRun, seeded
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.evaluation.likelihood import Estimate, likelihood_bound
from bfn_toolkit.runs.sampling import ResolvedPlan, SamplePlan

from .autoregressive import Autoregressive, fitted
from .common import (
    CACHE,
    Cache,
    Result,
    Run,
    Seeds,
    cpu_time,
    environment_of,
    remembered,
    run_of,
    spread,
    steps_for,
    trained,
    with_steps,
)

PEER = ("strings", "rdkit==2026.9.1", "molsets==0.3.1")  # the second has the data
EVERY = 16  # of the 1.6 million training molecules of MOSES
ORDER = 5  # of the n-grams
END = "\n"
SAMPLES, PRICED, MESSAGES = 500, 1000, 60
SAMPLERS = ("", "any-order")  # the first is the default
PEER_NAME = "autoregressive transformer, same blocks"
TRAINED, SHARES = ("bfn", PEER_NAME), ("valid", "unique", "new", "all three")


@cache
def molecules() -> Path:
    """A file of 99,042 SMILES, each sixteenth of the training set of MOSES."""

    def write(path: Path) -> None:
        (source,) = environment_of(*PEER).parents[1].glob("lib/python*/site-packages/moses/dataset/data/train.csv.gz")
        _, *rows = gzip.decompress(source.read_bytes()).decode().splitlines()
        path.write_text("\n".join(rows[::EVERY]) + "\n")

    return Cache.made(CACHE / "moses.smi", write)


def experiment(seed: int = 0) -> Experiment:
    """What ``bfn train`` does with the file."""
    dataset = {"name": "lines", "path": str(molecules())}
    return Experiment.from_mapping({"dataset": dataset, "seed": seed}, base="default")


def strings(dataset: Lines, name: Any) -> list[str]:
    """The strings of a split."""
    rows = dataset.split(name)
    return dataset.codec.decode(rows.x, rows.mask)


class NGrams:
    """Frequencies of characters after the n - 1 before them, interpolated with those of lower order (Witten-Bell).

    With c the counts after a context h, k the number of different characters there, and h' the context without its
    first character, p(x | h) = (c(h x) + k p(x | h')) / (c(h) + k).

    Arguments:
        order: Number n.
        rows: Strings for the counts.
    """

    def __init__(self, order: int, rows: Sequence[str]) -> None:
        self.order = order
        self.after: dict[str, Counter[str]] = {}
        texts = [END * (order - 1) + row + END for row in rows]
        for n in range(order):
            grams = Counter(t[i - n : i + 1] for t in texts for i in range(order - 1, len(t)))
            for gram, count in grams.items():
                self.after.setdefault(gram[:-1], Counter())[gram[-1]] = count
        self.characters = sorted(self.after[""])
        self.known: dict[str, dict[str, float]] = {}

    def law(self, context: str) -> dict[str, float]:
        """Probability of each character after a context."""
        while context not in self.after:
            context = context[1:]
        if context not in self.known:
            uniform = dict.fromkeys(self.characters, 1.0 / len(self.characters))
            lower, counts = self.law(context[1:]) if context else uniform, self.after[context]
            total, kinds = counts.total(), len(counts)
            self.known[context] = {c: (counts[c] + kinds * p) / (total + kinds) for c, p in lower.items()}
        return self.known[context]

    def nats(self, row: str) -> float:
        """Price of a string and its end."""
        text = END * (self.order - 1) + row + END
        places = range(self.order - 1, len(text))
        return -sum(math.log(self.law(text[i - self.order + 1 : i])[text[i]]) for i in places)

    def draws(self, seed: int) -> Iterator[str]:
        """Strings without end."""
        generator = random.Random(seed)
        while True:
            text = END * (self.order - 1)
            while len(text) == self.order - 1 or text[-1] != END:
                law = self.law(text[1 - self.order :])
                text += generator.choices(list(law), list(law.values()))[0]
            yield text.strip(END)


def of_lengths(draws: Iterator[str], lengths: Sequence[int], tries: int = 100) -> list[str]:
    """The first draws of these lengths."""
    wanted, found = Counter(lengths), list[str]()
    for _, row in zip(range(tries * len(lengths)), draws, strict=False):
        if wanted[len(row)]:
            wanted[len(row)] -= 1
            found.append(row)
        if len(found) == len(lengths):
            break
    return found


def length_nats(train: Sequence[str], test: Sequence[str]) -> float:
    """Mean price of the length of a string, by the frequencies of the training strings."""
    counts = Counter(map(len, train))
    most = max(map(len, [*train, *test]))
    return statistics.fmean(-math.log((counts[len(row)] + 1) / (len(train) + most)) for row in test)


def sampled(run: TrainedRun, sampler: str, n: int, messages: int) -> list[str]:
    """Strings of a run."""
    plan = ResolvedPlan.of(run, SamplePlan(n=n, steps=messages, sampler=sampler or None))
    raw: list[str] = plan.raw(plan.draw())
    return raw


def scores(rows: Mapping[str, Sequence[str]]) -> Result:
    """Scores of strings by name, by RDKit."""
    with tempfile.TemporaryDirectory() as folder:
        training = Path(folder) / "training"
        training.write_text("\n".join(strings(Lines(molecules()), "all")))
        for i, row in enumerate(rows.values()):
            (Path(folder) / str(i)).write_text("\n".join(row) + "\n")
        files = [str(Path(folder) / str(i)) for i in range(len(rows))]
        found = run_of(environment_of(*PEER), f"{__package__}._smiles", str(training), *files)
        return {name: found[file] for name, file in zip(rows, files, strict=True)}


def ours(minutes: float, seed: int, n: int, priced: int, messages: int) -> Result:
    """Cost, price without that of the length, and samples of a model."""
    setting, seconds = experiment(seed), 60.0 * minutes
    steps = remembered(f"strings/{minutes:g}-steps", lambda: {"steps": steps_for(setting, seconds)})["steps"]
    run, cost = trained(with_steps(setting, steps))
    held = setting.dataset.split("test").part(0, priced)
    with cpu_time(cost, "price seconds"):
        bound = likelihood_bound(run.model, held, draws=8).total
    rows = {}
    for sampler in SAMPLERS:
        name = f"bfn, {sampler or 'default sampler'}"
        with cpu_time(cost, f"{name} seconds"):
            rows[name] = sampled(run, sampler, n, messages)
    return {"cost": cost, "nats": bound.value, "stderr": bound.stderr, "rows": rows}


def autoregressive(minutes: float, seed: int, n: int, priced: int) -> Result:
    """The same of the autoregressive transformer, which says itself where a string ends."""
    setting = experiment(seed)
    train, test = (ended(setting.dataset, name) for name in ("train", "test"))
    end = int(train.max())

    def rows(n: int, generator: torch.Generator) -> Tensor:
        return train[torch.randint(len(train), (n,), generator=generator)]

    network, cost = fitted(
        setting, lambda config: Autoregressive(config, end + 1, train.shape[1], end), rows, 60.0 * minutes, seed
    )
    with torch.inference_mode():
        nats = Estimate.of(torch.cat([network(part) for part in test[:priced].split(100)]))
    with cpu_time(cost, f"{PEER_NAME} seconds"), seeded(seed, "samples"):
        x = torch.cat([network.draw(min(250, n - i)) for i in range(0, n, 250)])
    there = (x == end).cumsum(1) == 0
    drawn = setting.dataset.codec.decode(torch.where(there, x, 0)[:, :-1], there[:, :-1])
    return {"cost": cost, "nats": nats.value, "stderr": nats.stderr, "rows": {PEER_NAME: drawn}}


def ended(dataset: Lines, name: Any) -> Tensor:
    """The strings of a split as classes of characters, with one more class from the end on: (N, L + 1)."""
    rows = dataset.split(name)
    assert isinstance(rows.x, Tensor)
    end = len(dataset.codec.alphabet)
    return F.pad(torch.where(rows.mask, rows.x, end), (0, 1), value=end)


def measure(quick: bool, *, minutes: float = 5.0, seeds: int = 3) -> Result:
    """Prices and shares after so many minutes of training, beside held-out strings, n-grams and autoregression."""
    minutes, seeds, n, messages = (0.2, 1, 50, 10) if quick else (minutes, seeds, SAMPLES, MESSAGES)
    dataset = Lines(molecules())
    train, test = strings(dataset, "train"), strings(dataset, "test")
    priced = test[: 100 if quick else PRICED]
    characters = sum(map(len, priced))
    grams = NGrams(ORDER, train)
    rows = {"held out": test[:n], f"{ORDER}-gram": of_lengths(grams.draws(0), [len(row) for row in test[:n]])}
    prices: dict[str, list[float]] = {
        f"{k}-gram": [sum(map(g.nats, priced)) / characters / math.log(2)]
        for k, g in ((1, NGrams(1, train)), (3, NGrams(3, train)), (ORDER, grams))
    }
    lengths, costs = length_nats(train, priced), []
    for seed in Seeds.of(seeds, quick):
        key = f"{minutes:g}-{seed}-{n}"
        found = {"bfn": remembered(f"strings/{key}", partial(ours, minutes, seed, n, len(priced), messages))}
        if not seed:
            options = (minutes, seed, n, len(priced))
            found[PEER_NAME] = remembered(f"strings/autoregressive-{key}", partial(autoregressive, *options))
        for name, one in found.items():
            nats = one["nats"] + (lengths if name == "bfn" else 0.0)  # the other has priced the end
            prices.setdefault(name, []).append(nats * len(priced) / characters / math.log(2))
            costs.append({"of": name, **one["cost"]})
            rows |= {f"{row}, seed {seed}": some for row, some in one["rows"].items()}
            print(json.dumps([name, one["cost"], prices[name]]), file=sys.stderr, flush=True)
    return {
        "minutes": minutes,
        "messages": messages,
        "costs": costs,
        "bits": prices,
        "scores": scores(rows),
        "examples": {k: list(v[:8]) for k, v in rows.items()},
    }


RUNS: Mapping[str, Run] = {
    "strings": Run(measure, 35),
    "strings-15": Run(partial(measure, minutes=15.0, seeds=1), 45),
}


def section(results: Mapping[str, Result]) -> str:
    """The section of the page about the saved results."""
    found = [results[name] for name in RUNS if name in results]
    if not found:
        return ""
    lines = []
    for result in found:
        groups: dict[str, list[Result]] = {}
        for name, row in result["scores"].items():
            if name.startswith(TRAINED) or result is found[0]:
                groups.setdefault(name.partition(", seed")[0], []).append(row)
        for name, scored in groups.items():
            bits = next((result["bits"][key] for key in result["bits"] if name.startswith(key)), [])
            seconds = [cost["seconds"] for cost in result["costs"] if name.startswith(cost.get("of", "bfn"))]
            shares = [_cell([row[key] for row in scored], ".1%") for key in SHARES]
            lines.append("| " + " | ".join([name, _cell(seconds, ".0f"), _cell(bits, ".3f"), *shares]) + " |")
    drawn = found[-1]["examples"]
    examples = [name for name in drawn if name.startswith("bfn, default sampler")][:1]
    texts = ["", "The first samples of the last model:", "", "```text", *drawn[examples[0]], "```"] if examples else []
    return f"""\
## Strings: SMILES

Each sixteenth molecule of the training set of MOSES (the package `molsets`), as `bfn train molecules.smi` reads it;
10 % are held out. Bits per character price the length or the end too: that of `bfn` by the frequencies of the lengths,
which its samples have. Valid is the share of the strings that RDKit reads, unique the share of different molecules
among the valid ones, new the share of those that are in no training row. Samples take {found[0]["messages"]} messages.
The autoregressive transformer has the width, depth, batch and optimiser of ours.

| | CPU s | bits per character | valid | unique | new | all three |
|---|---|---|---|---|---|---|
{chr(10).join([*lines, *texts])}
"""


def _cell(values: Sequence[float], form: str) -> str:
    """Mean and spread of some values."""
    if not values:
        return ""
    found = spread(values)
    return f"{found['mean']:{form}}" + (f" ± {found['std']:{form}}" if found["n"] > 1 else "")
