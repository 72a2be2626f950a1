"""Fashion-MNIST: what is reached in minutes, beside baselines and flow matching, and which sampler is best."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bfn_toolkit import (
    BFN,
    ODE2,
    SDE2,
    AncestralSampler,
    ChurnSampler,
    ContinuousTimeLoss,
    CrossEntropyLoss,
    KarrasGrid,
    LogNormalTimes,
    Loss,
    Sampler,
    UniformGrid,
)
from bfn_toolkit.config.experiment import Experiment
from bfn_toolkit.evaluation.likelihood import likelihood_bound
from bfn_toolkit.sampling.default import default_sampler

from . import images, images_baselines
from .common import (
    CACHE,
    ROOT,
    Result,
    Run,
    Seeds,
    environment_of,
    kept,
    remembered,
    run_of,
    spread,
    steps_for,
    with_steps,
)
from .images import Pixels
from .separation import QUARTER

WIDTH = 24
RECIPE = {"lr": 3e-3, "ema_decay": 0.995}
LOOKS = ContinuousTimeLoss(weighting="unit", times=LogNormalTimes())
GREY = {"head_name": "noise", "sigma_1": 0.03, "loss": LOOKS}  # to look at
BINS = {"head_name": "discretised", "sigma_1": QUARTER, "loss": ContinuousTimeLoss()}  # to be priced
SAMPLES = 500
PEERS: Mapping[str, Mapping[str, str]] = {
    "torchcfm": {},
    "torchcfm, logit-normal times": {"times": "logit-normal"},
    "torchcfm, logit-normal times, optimal transport": {"times": "logit-normal", "pairs": "optimal transport"},
}
METHODS = ("Euler 20", "midpoint 20", "stochastic 20", "Euler 50", "stochastic 50")  # of its samples
GREY_SECONDS, BINARY_SECONDS = 156.0, 240.0
LABELS = 10
NATS_OF_LABEL = torch.tensor(float(LABELS)).log().item()  # a price without the label is at most so much higher


def experiment(pixels: Pixels, seed: int = 0, **options: Any) -> Experiment:
    """An experiment with the recipe of these runs."""
    return images.experiment(pixels, **{"width": WIDTH, "seed": seed, **RECIPE, **options})


def for_budget(key: str, seconds: float, make: Callable[[int], Experiment], seed: int) -> tuple[BFN, Result]:
    """The model of a training that takes about so many CPU seconds."""
    name = f"images/{key}-{seconds:g}"
    steps = remembered(f"{name}-steps", lambda: {"steps": steps_for(make(seed), seconds)})["steps"]  # for all seeds
    return kept(f"{name}-{seed}", lambda: with_steps(make(seed), steps))


def priced(pixels: Pixels, seconds: float, seeds: int, quick: bool, **options: Any) -> Result:
    """Prices after a budget, for several seeds."""
    rows = []
    for seed in Seeds.of(seeds, quick):
        budget, key = (3.0 if quick else seconds), f"{pixels}-priced"
        model, cost = for_budget(key, budget, lambda seed: experiment(pixels, seed, **options), seed)
        rows.append({"seed": seed, "cost": cost, "price": images.price(model, pixels, draws=1 if quick else 8)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    unit = "nats" if pixels == "binary" else "bits"
    values = spread([row["price"][unit] for row in rows])
    return {"budget": seconds, "width": WIDTH, "unit": unit, "rows": rows, "spread": values}


SAMPLERS: Mapping[str, Sampler[Any]] = {
    "ancestral": AncestralSampler(),
    "churn": ChurnSampler(),
    "sde-2": SDE2(),
    "sde-2 (signal)": SDE2(slope="signal"),
    "ode-2": ODE2(),
    "ode-2 (signal)": ODE2(slope="signal"),
    "sde-2, karras": SDE2(KarrasGrid()),
    "sde-2, uniform": SDE2(UniformGrid()),
    "sde-2 (signal), uniform": SDE2(UniformGrid(), slope="signal"),
}


def sampled(model: BFN, pixels: Pixels, sampler: Sampler[Any] | None, steps: int, **options: Any) -> Result:
    """Scores of samples with a number of evaluations."""
    chosen = sampler or default_sampler(model.family, steps)
    n = options.pop("n", SAMPLES)
    x = images.samples(model, n, steps + 1 - chosen.nfe(1), chosen, **options)
    return {"sampler": type(chosen).__name__, **images.scores(x, images.asked(n), pixels)}


def samplers(pixels: Pixels, quick: bool) -> Result:
    """Every sampler and grid on a trained model: all at 20 evaluations, the best also at 10, 50 and 100."""
    model, cost = (
        grey(3.0 if quick else GREY_SECONDS, 0) if pixels == "bins" else binary(3.0 if quick else BINARY_SECONDS, 0)
    )
    n, table = (20 if quick else SAMPLES), {}

    def measure(name: str, evaluations: int) -> float:
        found = sampled(model, pixels, SAMPLERS[name], evaluations, n=n)
        table.setdefault(name, {})[str(evaluations)] = found
        print(pixels, name, evaluations, found, file=sys.stderr, flush=True)
        return float(found["distance"])

    at_20 = {name: measure(name, 20) for name in SAMPLERS}
    best = sorted(at_20, key=at_20.__getitem__)
    for name in best[:5]:
        measure(name, 10)
    for evaluations, count in ((50, 3), (100, 1)):
        for name in best[: 1 if quick else count]:
            measure(name, evaluations)
    return {"cost": cost, "samples": n, "floor": images.floor(n, pixels), "table": table}


def grey(seconds: float, seed: int) -> tuple[BFN, Result]:
    """The model of grey images to look at."""
    return for_budget("grey", seconds, lambda seed: experiment("bins", seed, **GREY), seed)


def binary(seconds: float, seed: int) -> tuple[BFN, Result]:
    """The model of black and white images."""
    return for_budget("binary-priced", seconds, lambda seed: experiment("binary", seed, loss=BINARY), seed)


def looked_at(quick: bool, seeds: int = 3) -> Result:
    """Grey samples, beside flow matching on the same network and for the same steps.

    The first seed has all settings of the peer; the others have the one whose samples at 20 evaluations are best there.
    """
    budget, n, rows, settings = (3.0 if quick else GREY_SECONDS), (20 if quick else SAMPLES), [], list(PEERS)
    for seed in Seeds.of(seeds, quick):
        model, cost = grey(budget, seed)
        row: Result = {"seed": seed, "cost": cost}
        for steps in (20, 50):
            row[f"ours {steps}"] = sampled(model, "bins", None, steps, n=n)
        row["guided 20"] = sampled(model, "bins", None, 20, n=n, guidance=1.0)
        print(json.dumps(row), file=sys.stderr, flush=True)
        options = {"steps": cost["steps"], "width": WIDTH, "seed": seed, "samples": n, "recipe": json.dumps(RECIPE)}
        for name in settings:
            key = f"images/{name}-{cost['steps']}-{seed}-{n}"
            row[name] = remembered(key, partial(_of_peer, {**options, **PEERS[name]}))
            print(json.dumps({name: row[name]}), file=sys.stderr, flush=True)
        rows.append(row)
        settings = [min(settings, key=lambda name: best_of_peer(rows[0][name], 20)[1]["distance"])]
    return {"budget": budget, "width": WIDTH, "samples": n, "floor": images.floor(n, "bins"), "rows": rows}


def _of_peer(options: Mapping[str, Any]) -> Result:
    """Scores of the peer with these options."""
    python = environment_of("torchcfm", "torchcfm==1.0.7", "pot")
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return run_of(python, "benchmarks.data.peers.images_torchcfm", *words)


def best_of_peer(scores: Mapping[str, Any], evaluations: int) -> tuple[str, Result]:
    """The method whose samples of so many evaluations are best, and its scores."""
    names = [name for name in METHODS if name.endswith(f" {evaluations}") and name in scores]
    best = min(names, key=lambda name: scores[name]["distance"])
    return best, scores[best]


def binary_samples(quick: bool) -> Result:
    """Many black and white samples, so that the floor of as many held-out images is low."""
    n = 20 if quick else 2000
    model, cost = binary(3.0 if quick else BINARY_SECONDS, 0)
    rows: Result = {}
    for name, sampler in (("default", None), ("ancestral", AncestralSampler())):
        for evaluations in (20, 50):
            rows[f"{name} {evaluations}"] = sampled(model, "binary", sampler, evaluations, n=n)
            print(name, evaluations, rows[f"{name} {evaluations}"], file=sys.stderr, flush=True)
    return {"cost": cost, "samples": n, "floor": images.floor(n, "binary"), "rows": rows}


LOSSES: Mapping[str, Loss] = {
    "unit": ContinuousTimeLoss(weighting="unit"),
    "paper": ContinuousTimeLoss(),
    "cross-entropy": CrossEntropyLoss(),
}
BINARY = LOSSES["unit"]


def binary_losses(quick: bool) -> Result:
    """Which loss, for classes: a minute each of a small network."""
    rows = []
    for name, loss in LOSSES.items():
        make = partial(experiment, "binary", loss=loss, width=16, lr=4e-3, ema_decay=0.98, steps=20 if quick else 700)
        model, cost = kept(f"images/binary-{name}-{'quick' if quick else 700}", make)
        scores = [
            sampled(model, "binary", sampler, 20, n=20 if quick else 300) for sampler in (AncestralSampler(), None)
        ]
        rows.append({"loss": name, "cost": cost, "price": images.price(model, "binary", draws=4), "samples": scores})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"rows": rows, "floor": images.floor(300, "binary")}


def baselines(quick: bool) -> Result:
    """Baselines of the prices, in nats for an image."""
    binary, grey = (_levels(images.dataset(pixels), images.PRICED) for pixels in ("binary", "bins"))
    of_grey = {**images_baselines.of_bins(*grey, images.BINS), **images_baselines.by_programs(grey[1])}
    return {"binary": images_baselines.of_binary(*binary), "bins": of_grey}


def _levels(dataset: Any, n: int | None = None) -> tuple[Any, Any]:
    """Levels of all training images and of held-out ones."""
    train, test = (dataset.codec.decode(dataset.split(name).x).numpy() for name in ("all", "test"))
    return train, test[:n]


def digits(quick: bool) -> Result:
    """The digits of 8 x 8 pixels, in 17 levels and in black and white."""
    found: Result = {}
    for pixels, levels in (("bins", 17), ("binary", 2)):
        tables = {
            "dataset": {"name": "digits", "pixels": pixels},
            "network": {"name": "unet", "dropout": 0.1},
            "training": {"steps": 900, "batch_size": 128, "lr": 1e-3, "warmup": 50, "ema_decay": 0.99},
        }
        made = Experiment.from_mapping(tables, base="default")
        steps = 20 if quick else made.training.steps
        model, cost = kept(f"images/digits-{pixels}-{steps}", partial(with_steps, made, steps))
        bound = likelihood_bound(model, made.dataset.split("test"), draws=2 if quick else 30)
        of = images_baselines.of_binary if levels == 2 else partial(images_baselines.of_bins, levels=levels)
        price = {"nats": bound.total.value, "stderr": bound.total.stderr, "bits": bound.bits_per_dimension.value}
        found[pixels] = {"cost": cost, "price": price, "baselines": of(*_levels(made.dataset))}
    return found


def sheets(quick: bool) -> Result:
    """Figures of samples, a column for each label, from the models of the other runs."""
    folder = CACHE if quick else ROOT / "docs" / "figures"
    seconds = (3.0, 3.0) if quick else (GREY_SECONDS, BINARY_SECONDS)
    look, black_and_white = grey(seconds[0], 0)[0], binary(seconds[1], 0)[0]
    for name, model, guidance in (("samples", look, 0.0), ("guided", look, 1.0), ("binary", black_and_white, 0.0)):
        x = images.samples(model, 100, 10 if quick else 50, guidance=guidance)
        sheet(x).save(folder / f"fashion_{name}.png")
    return {"samples": 100, "evaluations": 50}


def sheet(x: Tensor) -> Image.Image:
    """A hundred samples of all labels in turn, a column for each label."""
    pixels = images.looks(x).unflatten(0, (10, 10)).permute(0, 2, 1, 3).reshape(280, 280)
    picture = Image.fromarray(((pixels + 1.0) * 127.5).round().to(torch.uint8).numpy())
    return picture.resize((560, 560), Image.Resampling.NEAREST)


def _prices(pixels: Pixels, minutes: float, seeds: int, **options: Any) -> Run:
    return Run(lambda quick: priced(pixels, 60.0 * minutes, seeds, quick, **options), seeds * (minutes + 2.0))


RUNS: Mapping[str, Run] = {
    "images-baselines": Run(baselines, 1),
    "images-binary-losses": Run(binary_losses, 8),
    "images-binary-2": _prices("binary", 2, 1, loss=BINARY),
    "images-binary-4": _prices("binary", 4, 3, loss=BINARY),
    "images-binary-15": _prices("binary", 15, 1, loss=BINARY),
    "images-bins-4": _prices("bins", 4, 3, **BINS),
    "images-bins-15": _prices("bins", 15, 1, **BINS),
    "images-digits": Run(digits, 8),
    "images-grey": Run(looked_at, 45),
    "images-sheets": Run(sheets, 2),
    "images-samplers-grey": Run(partial(samplers, "bins"), 7),
    "images-samplers-binary": Run(partial(samplers, "binary"), 7),
    "images-binary-samples": Run(binary_samples, 7),
}


def section(results: Mapping[str, Result]) -> str:
    """Prices, samples, samplers."""
    of = {kind: results.get(f"images-samplers-{kind}") for kind in ("grey", "binary")}
    parts = [
        _prices_section(results),
        _grey_section(results.get("images-grey")),
        _binary_section(results.get("images-binary-samples")),
        *(_samplers_section(kind, result) for kind, result in of.items()),
        _losses_section(results.get("images-binary-losses")),
    ]
    return "\n\n".join(part for part in parts if part)


def _number(found: Mapping[str, float], digits: int) -> str:
    text = f"{found['mean']:.{digits}f}"
    return text if found["n"] < 2 else f"{text} ± {found['std']:.{digits}f} ({found['n']} seeds)"


def _prices_section(results: Mapping[str, Result]) -> str:
    of = results.get("images-baselines")
    if of is None:
        return ""
    lines = [
        "## Images: prices",
        "",
        f"Bounds on the first {images.PRICED:,} held-out images of Fashion-MNIST, given the label; with that of the",
        f"label a price is {NATS_OF_LABEL:.2f} nats (0.004 bits per dimension) higher. The baselines know no labels.",
        "",
        "| data | by | nats | bits per dimension |",
        "|---|---|---|---|",
    ]
    for kind, words in (("binary", "black and white"), ("bins", "256 bins")):
        for minutes in (2, 4, 15):
            result = results.get(f"images-{kind}-{minutes}")
            if result is None:
                continue
            nats, bits = (spread([row["price"][unit] for row in result["rows"]]) for unit in ("nats", "bits"))
            seconds = spread([row["cost"]["seconds"] for row in result["rows"]])["mean"]
            by = f"this, U-Net of width {result['width']}, {minutes} min ({seconds:.0f} s)"
            error = result["rows"][0]["price"]
            lines.append(
                f"| {words} | {by} | {_number(nats, 1)}, standard error {error['stderr']:.1f} | {_number(bits, 3)} |"
            )
        lines += [f"| {words} | {name} | {x:.1f} | {images.bits(x):.3f} |" for name, x in of[kind].items()]
    digits = results.get("images-digits")
    if digits is not None:
        for kind, words in (("binary", "digits, black and white"), ("bins", "digits, 17 levels")):
            found = digits[kind]
            price, by = found["price"], f"this, {found['cost']['seconds']:.0f} s"
            lines.append(f"| {words} | {by} | {price['nats']:.1f} ± {price['stderr']:.1f} | {price['bits']:.3f} |")
            lines += [
                f"| {words} | {name} | {x:.1f} | {images.bits(x, 64):.3f} |" for name, x in found["baselines"].items()
            ]
    return "\n".join(lines)


def _grey_section(result: Result | None) -> str:
    if result is None or "floor" not in result:
        return ""
    floor, rows = result["floor"], result["rows"]
    peers = [name for name in rows[0] if name.startswith("torchcfm")]
    cells = {name: [row[name] for row in rows] for name in ("ours 20", "ours 50", "guided 20")}
    for peer in peers:
        for name in (name for name in rows[0][peer] if name != "cost"):
            cells[f"{peer}, {name}"] = [row[peer][name] for row in rows if peer in row]
    ours, theirs = (
        spread([cost["seconds"] for cost in some])["mean"]
        for some in (
            [row["cost"] for row in rows],
            [row[peer]["cost"] for row in rows for peer in peers if peer in row],
        )
    )
    lines = [
        "## Images: samples beside flow matching",
        "",
        f"Grey images, a U-Net of width {result['width']}, {rows[0]['cost']['steps']:,} steps: {ours:.0f} s, and "
        f"{theirs:.0f} s of torchcfm with the same network, rows, optimiser, clipping and moving average. "
        f"{result['samples']} samples; as many held-out images have the distance {floor['distance']:.1f} and the "
        f"accuracy {floor['accuracy']:.2f}. The number is that of evaluations, of which guidance takes two.",
        "",
        "Ours draws times that are log-normal in the signal-to-noise ratio and renews the noise while it samples; each "
        "of these alone makes samples much better here (see the tables of samplers and of heads below). So flow "
        "matching is given both too: times that are logit-normal, and a stochastic solver of second order beside "
        "Euler's method and the midpoint rule. The first seed has all its settings, the others the best of them. The "
        "learning rate 1e-3 in place of 3e-3 was tried once, with uniform times, and was worse (31.8 where 3e-3 had "
        "26.9), and so was the mean of squares in place of the sum, after a short training.",
        "",
        "| samples | distance | accuracy |",
        "|---|---|---|",
    ]
    for name, found in cells.items():
        if found:
            columns = [_number(spread([cell[key] for cell in found]), digits) for key, digits in SCORES.items()]
            lines.append(f"| {name} | {' | '.join(columns)} |")
    for figure, words in (("samples", "A column for each label"), ("guided", "The same with guidance of weight 1")):
        lines += ["", f"![A hundred samples of clothes](../figures/fashion_{figure}.png)", ""]
        lines += [f"{words}: samples of 50 evaluations of the default sampler."]
    return "\n".join(lines)


def _binary_section(result: Result | None) -> str:
    if result is None:
        return ""
    floor = result["floor"]
    lines = [
        "## Images: black and white samples",
        "",
        f"{result['samples']:,} samples of the model of {result['cost']['seconds'] / 60:.0f} minutes; as many "
        f"held-out images have the distance {floor['distance']:.1f} and the accuracy {floor['accuracy']:.2f}. The "
        "distance falls with the number of samples, so it is to be compared with that of the held-out images; and it "
        "depends on the classifier, which is our own, so it cannot be compared with distances of another one.",
        "",
        "| sampler, evaluations | distance | above held-out images | accuracy |",
        "|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        words = f"{name} ({row['sampler']})" if name.startswith("default") else name
        above = row["distance"] - floor["distance"]
        lines.append(f"| {words} | {row['distance']:.1f} | {above:.1f} | {row['accuracy']:.2f} |")
    lines += ["", "![A hundred black and white samples](../figures/fashion_binary.png)", ""]
    lines += ["A column for each label: samples of 50 evaluations of the default sampler."]
    return "\n".join(lines)


def _losses_section(result: Result | None) -> str:
    if result is None:
        return ""
    lines = [
        "## Images: which loss, black and white",
        "",
        f"A U-Net of width 16, {result['rows'][0]['cost']['steps']} steps, one seed; 300 samples of 20 evaluations; as "
        f"many held-out images have the distance {result['floor']['distance']:.1f}.",
        "",
        "| loss | nats | distance, ancestral | distance, default |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        price, distances = row["price"], [f"{found['distance']:.1f}" for found in row["samples"]]
        lines.append(f"| {row['loss']} | {price['nats']:.1f} ± {price['stderr']:.1f} | {' | '.join(distances)} |")
    return "\n".join(lines)


SCORES = {"distance": 1, "accuracy": 2}


def _samplers_section(kind: str, result: Result | None) -> str:
    if result is None:
        return ""
    floor, counts = result["floor"], ("10", "20", "50", "100")
    lines = [
        f"## Images: samplers, {'grey' if kind == 'grey' else 'black and white'}",
        "",
        f"Distance / accuracy of {result['samples']} samples of one model, by evaluations; as many held-out images: "
        f"{floor['distance']:.1f} / {floor['accuracy']:.2f}.",
        "",
        f"| sampler | {' | '.join(counts)} |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["table"].items():
        cells = [f"{row[n]['distance']:.1f} / {row[n]['accuracy']:.2f}" if n in row else "" for n in counts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if kind == "binary":
        lines += ["", "![Distance by evaluations for each sampler](../figures/results_samplers.png)", ""]
        lines += ["The distance by evaluations for the best samplers; dashed, that of as many held-out images."]
    return "\n".join(lines)
