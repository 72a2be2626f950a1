"""The King James Version in 27 characters: prices beside n-grams and an autoregressive transformer, and samples."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from bfn_text import Text
from bfn_toolkit import (
    BFN,
    ODE2,
    SDE1,
    SDE2,
    AncestralSampler,
    AnyOrderSampler,
    Batch,
    ChurnSampler,
    ConfigError,
    Sampler,
    Split,
    default_sampler,
    seeded,
)
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.evaluation.likelihood import Estimate, likelihood_bound

from .autoregressive import Autoregressive, fitted
from .common import CACHE, Cache, Result, Run, Seeds, cpu_time, kept, remembered, spread, with_steps

KJV = os.environ.get("KJV")  # a file with the output of the command below, for machines without it
COMMAND = ("bible", "-f", "gen1:1-rev22:21")  # Debian: bible-kjv
LENGTH, CLASSES = 128, 27
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SEEDS = 3
QUICK, LONG = 10, 15_000  # steps of training: half an hour; those of the presets take five minutes
PRESETS = ("text", "text8-small")  # by default, and with the family of the paper
STEPS = (10, 25, 50, 100, LENGTH)
SCORES = ("bits", "entropy", "distinct", "distance", "words")


def kjv_file() -> Path:
    """A file with the text without its verse references."""

    def write(path: Path) -> None:
        raw = (
            Path(KJV).read_text() if KJV else subprocess.run(COMMAND, check=True, capture_output=True, text=True).stdout
        )
        path.write_text(re.sub(r"(?m)^\S+:\d+ ", "", raw))

    return Cache.made(CACHE / "kjv.txt", write)


@cache
def kjv() -> Text:
    """Windows of 27 characters; those held out are from all books, because the last ones differ from the others."""
    dataset = experiment().dataset
    assert isinstance(dataset, Text)
    return dataset


@cache
def windows(name: Split) -> Tensor:
    """The windows of a split that do not overlap, (N, L)."""
    x = attrs.evolve(kjv(), windows="fixed").split(name).x
    assert isinstance(x, Tensor)
    return x


# Baselines


class NGrams:
    """Frequencies of n-grams, each order interpolated with the one below.

    With c the counts after a context h, and h' the context without its first character,

        p(x | h) = (c(h x) + d p(x | h')) / (c(h) + d),

    where each order has its own d, the one of the smallest price on validation.

    Arguments:
        order: Number n of characters.
        text: Windows for the counts, (N, L).
        valid: Windows for d.
    """

    def __init__(self, order: int, text: Tensor, valid: Tensor) -> None:
        self.counts = [torch.unique(codes(text, k), return_counts=True) for k in range(1, order + 1)]
        self.total, self.weights = text.numel(), list[float]()
        for _ in range(order):
            tries = [2.0**i for i in range(-3, 11)]
            prices = [float(self.nats(valid, [*self.weights, d]).mean()) for d in tries]
            self.weights.append(tries[prices.index(min(prices))])

    def _count(self, x: Tensor, k: int) -> Tensor:
        """Counts of the k-grams that end at each place, (N, L); the first places have none."""
        found, counts = self.counts[k - 1]
        code = codes(x, k)
        place = torch.searchsorted(found, code).clamp_(max=len(found) - 1)
        count = torch.where(found[place] == code, counts[place], 0).double()
        return F.pad(count, (k - 1, 0))

    def nats(self, x: Tensor, weights: list[float] | None = None) -> Tensor:
        """Price of each character of windows, (N, L), which know nothing of what is before them."""
        p = torch.full(x.shape, 1.0 / CLASSES, dtype=torch.float64)
        before = torch.full(x.shape, float(self.total), dtype=torch.float64)
        for k, d in enumerate(weights or self.weights, 1):
            here = self._count(x, k)
            p = torch.cat([p[:, : k - 1], ((here + d * p) / (before + d))[:, k - 1 :]], 1)
            before = F.pad(here, (1, 0))[:, :-1]
        return -p.log()


def codes(x: Tensor, k: int) -> Tensor:
    """The k-grams of windows (N, L) as numbers, (N, L - k + 1)."""
    places = CLASSES ** torch.arange(k - 1, -1, -1)
    return (x.unfold(1, k, 1) * places).sum(-1)


def autoregressive(seconds: float, seed: int = 0) -> Result:
    """Cost and price of the autoregressive transformer."""
    x = windows("train").flatten()

    def rows(n: int, generator: torch.Generator) -> Tensor:
        begins = torch.randint(len(x) - LENGTH, (n, 1), generator=generator)
        return x[begins + torch.arange(LENGTH)]

    network, cost = fitted(experiment(), lambda config: Autoregressive(config, CLASSES, LENGTH), rows, seconds, seed)
    with torch.inference_mode():
        nats = torch.cat([network(part) for part in torch.split(windows("test"), 64)])
    return {**cost, **bits(Estimate.of(nats))}


def bits(nats: Estimate) -> dict[str, float]:
    """Bits per character of the price of windows in nats."""
    value = nats.bits_per(LENGTH)
    return {"bits": value.value, "stderr": value.stderr}


# The flow


def experiment(steps: int | None = None, seed: int = 0, preset: str = PRESETS[0]) -> Experiment:
    """A preset on this text, with so many steps; the held-out windows are always the same."""
    data = {"name": "text", "path": str(kjv_file()), "length": LENGTH, "alphabet": "text8", "split": "windows"}
    options = [*((f"dataset.{key}", str(value)) for key, value in data.items()), ("seed", str(seed))]
    setting = Experiment.from_toml(None, preset, options)
    return setting if steps is None else with_steps(setting, steps)


def price(model: BFN, n_steps: int | None = None, draws: int = 4) -> dict[str, float]:
    """Bound in bits per character on the test windows."""
    return bits(likelihood_bound(model, Batch(windows("test")), n_steps=n_steps, draws=draws).total)


def model_of(steps: int | None = None, seed: int = 0, preset: str = PRESETS[0]) -> tuple[BFN, Result]:
    """The model of a preset, trained for so many steps or those of the preset, and its cost; the cache keeps it."""
    setting = experiment(steps, seed, preset)
    return kept(f"text/{preset}-{setting.training.steps}-{seed}", lambda: setting)


def flow(steps: int | None, seed: int, preset: str = PRESETS[0], message_counts: Sequence[int] = ()) -> Result:
    """Cost and prices of a model, in continuous time and with some numbers of messages."""
    model, cost = model_of(steps, seed, preset)
    prices = {"infinity": price(model, draws=1 if steps == QUICK else 4)}
    prices |= {str(n): price(model, n, draws=1) for n in message_counts}
    parameters = sum(p.numel() for p in model.parameters())
    row = {"preset": preset, "seed": seed, **cost, "parameters": parameters, "prices": prices}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


# Samples


def frequencies(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-grams of windows, and their shares."""
    found, counts = torch.unique(codes(x, k), return_counts=True)
    return found, counts.double() / counts.sum()


def variation(a: Tensor, b: Tensor, k: int) -> float:
    """Total variation distance of the k-grams of two sets of windows."""
    signed = [sign * shares for sign, (_, shares) in zip((1.0, -1.0), (frequencies(x, k) for x in (a, b)), strict=True)]
    names = torch.cat([frequencies(x, k)[0] for x in (a, b)])
    found, place = torch.unique(names, return_inverse=True)
    return float(torch.zeros(len(found), dtype=torch.float64).index_add_(0, place, torch.cat(signed)).abs().sum()) / 2


def scores(x: Tensor, grams: NGrams) -> dict[str, float]:
    """How likely the texts are under n-grams, how varied they are, and how far their n-grams are from held-out text's.

    Texts that are too likely are not better than the data: each figure is to be compared with that of held-out text.
    """
    held = windows("test")
    four = frequencies(x, 4)[1]
    words = [word for text in kjv().codec.decode(x) for word in text.split(" ")[1:-1]]
    return {
        "bits": float(grams.nats(x)[:, 5:].mean()) / math.log(2.0),
        "entropy": float(-(four * four.log2()).sum()),
        "distinct": len(four) / codes(x, 4).numel(),
        "distance": variation(x, held, 3),
        "words": sum(word in vocabulary() for word in words) / max(1, len(words)),
    }


@cache
def vocabulary() -> frozenset[str]:
    """The words of the training text."""
    text = kjv().codec.decode(windows("train").reshape(1, -1))[0]
    return frozenset(text.split(" "))


SAMPLERS: Mapping[str, Sampler[Any]] = {
    "ancestral": AncestralSampler(),
    "churn": ChurnSampler(),
    "churn 4": ChurnSampler(4.0),
    "sde-1": SDE1(),
    "sde-2": SDE2(),
    "sde-2, signal": SDE2(slope="signal"),
    "ode-2": ODE2(),
    "ode-2, signal": ODE2(slope="signal"),
    "any-order, 16": AnyOrderSampler(block=16),
    "any-order": AnyOrderSampler(),
    "in order": AnyOrderSampler(sequence="given"),
}


def drawn(model: BFN, n: int, n_steps: int, sampler: Sampler[Any]) -> Tensor:
    """Samples."""
    with seeded(0, "samples"):
        x = model.sample(n, n_steps=n_steps, sampler=sampler)
    assert isinstance(x, Tensor)
    return x


def study(model: BFN, grams: NGrams, n: int, counts: Sequence[int]) -> Result:
    """Scores of all samplers, beside those of as many held-out windows."""
    with seeded(0, "floor"):
        held, rows = windows("valid")[torch.randperm(len(windows("valid")))], []
    floor = [scores(part, grams) for part in torch.split(held[: 4 * n], n)]
    for n_steps in counts:
        for name, sampler in SAMPLERS.items():
            cost: dict[str, float] = {}
            with cpu_time(cost, "seconds"):
                try:
                    x = drawn(model, n, n_steps, sampler)
                except ConfigError as error:  # not for this family, or not in so few steps
                    print(name, n_steps, error, file=sys.stderr)
                    continue
            rows.append({"sampler": name, "steps": n_steps, **cost, **scores(x, grams)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"n": n, "floor": {key: spread([row[key] for row in floor]) for key in floor[0]}, "rows": rows}


def prices(quick: bool) -> Result:
    """N-grams, the autoregressive transformer for 100 s and 5 min, and the flow for 5 min."""
    train, valid, test = (windows(split) for split in SPLITS)
    grams = {k: NGrams(k, train, valid) for k in (1, 2, 3, 4, 5, 6)}
    baselines = {str(k): bits(Estimate.of(model.nats(test).sum(1))) for k, model in grams.items()}
    print(json.dumps(baselines), file=sys.stderr, flush=True)
    counts: Sequence[int] = (10,) if quick else (10, 25, 50, 100)
    steps = QUICK if quick else None
    flows = [flow(steps, seed, PRESETS[0], () if seed else counts) for seed in Seeds.of(SEEDS, quick)]
    flows += [flow(steps, 0, preset, counts) for preset in PRESETS[1:]]
    peers = [
        remembered(f"text/autoregressive-{seconds:g}", partial(autoregressive, seconds))
        for seconds in ((1.0,) if quick else (100.0, 300.0))
    ]
    return {"windows": len(test), "length": LENGTH, "n-grams": baselines, "autoregressive": peers, "flow": flows}


def samplers(quick: bool) -> Result:
    """All samplers on the models of 5 minutes."""
    grams, n, counts = NGrams(6, windows("train"), windows("valid")), 4 if quick else 48, (10,) if quick else STEPS
    models = {preset: model_of(QUICK if quick else None, preset=preset)[0] for preset in PRESETS}
    return {preset: study(model, grams, n, counts) for preset, model in models.items()}


def long(quick: bool) -> Result:
    """The flow for longer, and samples of it by default."""
    steps = QUICK if quick else LONG
    result, (model, _) = flow(steps, 0), model_of(steps)
    n_steps = 10 if quick else 100
    x = drawn(model, 32, n_steps, default_sampler(model.family, n_steps))
    grams = NGrams(6, windows("train"), windows("valid"))
    return {**result, "samples": kjv().codec.decode(x[:10]), "n_steps": n_steps, "scores": scores(x, grams)}


RUNS = {"text": Run(prices, 20), "text-samplers": Run(samplers, 12), "text-long": Run(long, 22)}


def section(results: Mapping[str, Result]) -> str:
    """Prices, samplers, samples."""
    lines = ["## Text: the King James Version in 27 characters", ""]
    if found := results.get("text"):
        lines += [*_prices(found, results.get("text-long")), ""]
        lines += ["![Pieces of the text beside samples](../figures/text_samples.png)", ""]
        lines += [
            "Pieces of the text beside samples of a run of the command line ([Your text](../tutorials/your_text.md)).",
            "",
        ]
    for preset in PRESETS:
        if found := results.get("text-samplers", {}).get(preset):
            lines += [*_samplers(preset, found), ""]
    if found := results.get("text-long"):
        lines += [*_samples(found), ""]
    return "\n".join(lines).strip() if len(lines) > 2 else ""


def _prices(found: Result, long: Result | None) -> list[str]:
    flows = [*found["flow"], *([long] if long else [])]
    first = flows[0]
    seeds = [row["prices"]["infinity"]["bits"] for row in found["flow"] if row["preset"] == first["preset"]]
    counts = sorted(int(n) for n in first["prices"] if n != "infinity")
    lines = [
        f"Windows of {found['length']} characters, {found['windows']:,} of them held out; the characters before a "
        "window are unknown to all. Bits per character: of the flow an upper bound, in continuous time.",
        "",
        "| model | CPU time | steps | bits per character |",
        "|---|---|---|---|",
    ]
    lines += [f"| {k}-gram | | | {_bits(price)} |" for k, price in found["n-grams"].items()]
    lines += [
        f"| autoregressive transformer, same blocks | {row['seconds']:.0f} s | {row['steps']:,} | {_bits(row)} |"
        for row in found["autoregressive"]
    ]
    lines += [
        f"| flow, `{row['preset']}`, seed {row['seed']} | {row['seconds']:.0f} s | {row['steps']:,} "
        f"| {_bits(row['prices']['infinity'])} |"
        for row in flows
    ]
    if len(seeds) > 1:
        over = spread(seeds)
        lines += ["", f"Over {over['n']} seeds: {over['mean']:.3f} ± {over['std']:.3f}."]
    if counts:
        for row in (row for row in found["flow"] if str(counts[0]) in row["prices"]):
            told = ", ".join(f"{row['prices'][str(n)]['bits']:.2f} with {n}" for n in counts)
            lines += ["", f"`{row['preset']}` with few messages: {told}."]
    return lines


def _samplers(preset: str, found: Result) -> list[str]:
    floor = found["floor"]
    lines = [
        f"{found['n']} samples of `{preset}` after five minutes. *Bits* under a 6-gram of the training text say how "
        "likely the samples are, *entropy* and *distinct* (of their 4-grams) how varied; *distance* is the total "
        "variation distance of their 3-grams from those of held-out text; *words* is the share of words that the "
        "training text has. The first row is held-out text itself: likelier or less varied than that is not better.",
        "",
        "| sampler | steps | bits | entropy | distinct | distance | words |",
        "|---|---|---|---|---|---|---|",
        "| held-out text | | " + " | ".join(f"{floor[key]['mean']:.2f}" for key in SCORES) + " |",
    ]
    lines += [
        f"| {row['sampler']} | {row['steps']} | " + " | ".join(f"{row[key]:.2f}" for key in SCORES) + " |"
        for row in found["rows"]
    ]
    return lines


def _samples(found: Result) -> list[str]:
    text = [line.strip() for line in found["samples"]]
    return [
        f"Samples of the model of {found['seconds'] / 60:.0f} minutes, with {found['n_steps']} steps of the default "
        "sampler:",
        "",
        "```text",
        *text,
        "```",
    ]


def _bits(price: Mapping[str, float]) -> str:
    return f"{price['bits']:.3f} ± {price['stderr']:.3f}"
