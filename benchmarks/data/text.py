"""The King James Version in 27 characters: prices beside n-grams and an autoregressive transformer, and samples."""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bfn_text import Text
from bfn_toolkit import (
    BFN,
    SDE1,
    SDE2,
    AncestralSampler,
    AnyOrderSampler,
    Batch,
    ChurnSampler,
    ODE2,
    Sampler,
    default_sampler,
    seeded,
)
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.evaluation.likelihood import Estimate, likelihood_bound
from bfn_toolkit.training.optimizers import MovingAverage, clip_gradients, make_optimizer, make_scheduler
from bfn_transformer.transformer import Block, Transformer, rotary_angles

from .common import CACHE, Result, cpu_time, spread, steps_for, trained, with_steps

KJV = os.environ.get("KJV")  # a file with the output of the command below, for machines without it
COMMAND = ("bible", "-f", "gen1:1-rev22:21")  # Debian: bible-kjv
LENGTH, CLASSES = 128, 27
MINUTE = 60.0


def kjv_file() -> Path:
    """A file with the text without its verse references."""
    path = CACHE / "kjv.txt"
    if not path.exists():
        raw = Path(KJV).read_text() if KJV else subprocess.run(COMMAND, check=True, capture_output=True, text=True).stdout
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"(?m)^\S+:\d+ ", "", raw))
    return path


@cache
def kjv() -> Text:
    """Windows of 27 characters, in blocks of 90, 5 and 5 %."""
    dataset = experiment().dataset
    assert isinstance(dataset, Text)
    return dataset


def windows(split: str) -> Tensor:
    """The windows of a split that do not overlap, (N, L)."""
    rows = kjv().rows(split)
    x = rows[torch.arange(len(rows))].x
    assert isinstance(x, Tensor)
    return x[:, :LENGTH].long()


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
        self.counts = [codes(text, k).flatten().unique(return_counts=True) for k in range(1, order + 1)]
        self.total, self.weights = text.numel(), list[float]()
        for k in range(1, order + 1):
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


class Autoregressive(nn.Module):
    """The blocks of the transformer with a causal mask: each character from those before it."""

    mask: Tensor
    angles: Tensor

    def __init__(self, config: Transformer) -> None:
        super().__init__()
        width = config.width
        self.embedding = nn.Embedding(CLASSES + 1, width)  # the last one begins a window
        self.c = nn.Parameter(torch.randn(width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)
        angles = rotary_angles(config.tokens(experiment().family.network_io), width // config.heads // 2)
        self.register_buffer("mask", torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None])
        self.register_buffer("angles", angles)

    def forward(self, x: Tensor) -> Tensor:
        """Price of each window in nats, (B,)."""
        h = self.embedding(F.pad(x, (1, 0), value=CLASSES)[:, :-1])
        for block in self.blocks:
            h = block(h, F.silu(self.c)[None, None], self.mask, self.angles)
        return F.cross_entropy(self.head(self.norm(h)).mT, x, reduction="none").sum(1)


def autoregressive(seconds: float, seed: int = 0, **training: Any) -> Result:
    """The autoregressive transformer with the width, depth, batch and optimiser of the preset, trained for so long."""
    setting = experiment()
    options = attrs.evolve(setting.training, **training)
    x, generator = windows("train").flatten(), torch.Generator().manual_seed(seed)

    def run(options: Training) -> tuple[nn.Module, float]:
        with seeded(seed, "autoregressive"):
            network = Autoregressive(setting.network)
        parameters = list(network.parameters())
        optimizer = make_optimizer(options, parameters)
        schedule, average = make_scheduler(options, optimizer), MovingAverage(network, options.ema_decay)
        start = time.process_time()
        for _ in range(options.steps):
            begins = torch.randint(len(x) - LENGTH, (options.batch_size, 1), generator=generator)
            loss = network(x[begins + torch.arange(LENGTH)]).mean()
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(parameters, options.clip_norm)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            average.update()
        return average.module, time.process_time() - start

    pace = run(attrs.evolve(options, steps=40, warmup=1))[1] - run(attrs.evolve(options, steps=10, warmup=1))[1]
    steps = max(10, round(30 * seconds / pace))
    network, spent = run(attrs.evolve(options, steps=steps, warmup=min(options.warmup, steps)))
    with torch.inference_mode():
        nats = torch.cat([network(part) for part in windows("test").split(64)])
    parameters = sum(p.numel() for p in network.parameters())
    return {"steps": steps, "seconds": round(spent, 1), "seed": seed, "parameters": parameters, **bits(Estimate.of(nats))}


def bits(nats: Estimate) -> dict[str, float]:
    """Bits per character of the price of windows in nats."""
    value = nats.bits_per(LENGTH)
    return {"bits": value.value, "stderr": value.stderr}


# The flow


def experiment(steps: int | None = None, seed: int = 0) -> Experiment:
    """The preset text8-small on this text, with so many steps."""
    options = [("dataset.path", str(kjv_file())), ("dataset.length", str(LENGTH)), ("seed", str(seed))]
    setting = Experiment.from_toml(None, "text8-small", options)
    return setting if steps is None else with_steps(setting, steps)


def price(model: BFN, n_steps: int | None = None, draws: int = 4) -> dict[str, float]:
    """Bound in bits per character on the test windows."""
    return bits(likelihood_bound(model, Batch(windows("test")), n_steps=n_steps, draws=draws).total)


def flow(minutes: float, seeds: int, quick: bool, message_counts: Sequence[int] = ()) -> tuple[list[BFN], Result]:
    """Models of the preset, trained for so long, and their prices."""
    steps = 10 if quick else steps_for(experiment(), minutes * 60.0)
    models, rows = [], []
    for seed in range(seeds):
        run, cost = trained(experiment(steps, seed))
        models.append(run.model)
        draws = 1 if quick else 4
        prices = {"infinity": price(run.model, draws=draws)}
        if seed == 0:
            prices |= {str(n): price(run.model, n, draws=1) for n in message_counts}
        rows.append({"seed": seed, **cost, "prices": prices})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    training = experiment().training
    return models, {
        "budget_minutes": minutes,
        "batch": training.batch_size,
        "parameters": sum(p.numel() for p in models[0].parameters()),
        "runs": rows,
        "bits": spread([row["prices"]["infinity"]["bits"] for row in rows]),
    }


# Samples


def frequencies(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-grams of windows, and their shares."""
    found, counts = codes(x, k).flatten().unique(return_counts=True)
    return found, counts.double() / counts.sum()


def variation(a: Tensor, b: Tensor, k: int) -> float:
    """Total variation distance of the k-grams of two sets of windows."""
    signed = [sign * shares for sign, (_, shares) in zip((1.0, -1.0), (frequencies(x, k) for x in (a, b)), strict=True)]
    names = torch.cat([frequencies(x, k)[0] for x in (a, b)])
    found, place = names.unique(return_inverse=True)
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
    "sde-1": SDE1(),
    "sde-2": SDE2(),
    "sde-2, signal": SDE2(slope="signal"),
    "ode-2": ODE2(),
    "ode-2, signal": ODE2(slope="signal"),
    "any-order": AnyOrderSampler(block=16),
}


def drawn(model: BFN, n: int, n_steps: int, sampler: Sampler[Any]) -> Tensor:
    """Samples."""
    with seeded(0, "samples"):
        x = model.sample(n, n_steps=n_steps, sampler=sampler)
    assert isinstance(x, Tensor)
    return x


def study(model: BFN, grams: NGrams, n: int, counts: Sequence[int]) -> Result:
    """Scores of all samplers, beside those of as many held-out windows."""
    held, rows = windows("valid"), []
    floor = [scores(part, grams) for part in held[: 4 * n].split(n)]
    for name, sampler in SAMPLERS.items():
        for n_steps in counts:
            cost: dict[str, float] = {}
            with cpu_time(cost, "seconds"):
                try:
                    x = drawn(model, n, n_steps, sampler)
                except StepCountError:
                    continue
            rows.append({"sampler": name, "steps": n_steps, **cost, **scores(x, grams)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"n": n, "floor": {key: spread([row[key] for row in floor]) for key in floor[0]}, "rows": rows}


def measure(quick: bool) -> Result:
    """N-grams, the autoregressive transformer for 100 s and 5 min, the flow for 5 and 30 min, and its samples."""
    train, valid, test = (windows(split) for split in ("train", "valid", "test"))
    result: Result = {"windows": len(test), "length": LENGTH}
    grams = [NGrams(k, train, valid[:200]) for k in (range(1, 3) if quick else range(1, 7))]
    result["n-grams"] = {str(k): bits(Estimate.of(g.nats(test).sum(1))) for k, g in enumerate(grams, 1)}
    result["autoregressive"] = [autoregressive(seconds) for seconds in ((1.0,) if quick else (100.0, 300.0))]
    models, result["flow"] = flow(5.0, 1 if quick else 3, quick, (10,) if quick else (25, 50, 100))
    result["samplers"] = study(models[0], grams[-1], 4 if quick else 64, (2,) if quick else (10, 25, 50, 100, 200))
    long, result["long flow"] = flow(30.0, 1, quick)
    x = drawn(long[0], 10, 10 if quick else 100, default_sampler(long[0].family, 100))
    result["samples"] = kjv().codec.decode(x)
    return result


RUNS = {"text": measure}


def section(results: Mapping[str, Result]) -> str:
    """Prices, samplers, samples."""
    if "text" not in results:
        return ""
    return ""
