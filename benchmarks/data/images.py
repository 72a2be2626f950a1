"""Fashion-MNIST: the data, the experiments, and the scores of prices and samples."""

from __future__ import annotations

import math
import os
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_gaussian import DataHead, Gaussian, Head, NoiseHead, SkipHead
from bfn_gaussian_heads import DiscretisedHead
from bfn_images import Images
from bfn_toolkit import (
    BFN,
    Batch,
    Binned,
    ContinuousTimeLoss,
    Guided,
    Loss,
    Sampler,
    SiteNormalMixture,
    Split,
    seeded,
)
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.evaluation.likelihood import CodeLength, likelihood_bound
from bfn_toolkit.shapes import Data
from bfn_unet import UNet

from .common import CACHE, Cache

FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))  # Debian: dataset-fashion-mnist
AXES = ("height", "width")
BINS = 256
PRICED = 1000  # held-out images whose price is measured
Pixels = Literal["bins", "binary"]


@cache
def dataset(pixels: Pixels) -> Images:
    """Grey images of 256 bins, or black and white ones."""
    return Images(FASHION, binarise="threshold" if pixels == "binary" else "none")


@cache
def split(pixels: Pixels, name: Split) -> Batch:
    """Images and labels."""
    return dataset(pixels).split(name)


def head(name: str) -> Head:
    """A head by name, for 256 bins."""
    variance = dataset("bins").content.data_variance
    point = {"skip": SkipHead(variance), "noise": NoiseHead(), "data": DataHead()}
    if name in point:
        return point[name]
    return DiscretisedHead(bins=BINS, point=SkipHead(variance) if name == "discretised skip" else NoiseHead())


def experiment(
    pixels: Pixels,
    *,
    head_name: str = "skip",
    sigma_1: float = 0.03,
    loss: Loss | None = None,
    steps: int = 600,
    width: int = 32,
    seed: int = 0,
    **training: Any,
) -> Experiment:
    """An experiment with the recipe of the preset for images, and other options of the training."""
    if pixels == "binary":
        family: Any = Categorical(site_shape=(28, 28), classes=2, axes=AXES)
    else:
        family = Gaussian(site_shape=(28, 28), sigma_1=sigma_1, head=head(head_name), axes=AXES)
    recipe = {
        "lr": 1e-3,
        "warmup": min(50, steps),
        "ema_decay": 0.995,
        "batch_size": 32,
        "checkpoint_every": 0,
        **training,
    }
    return Experiment(
        dataset=dataset(pixels),
        family=family,
        network=UNet(width=width, labels=10),
        loss=loss or ContinuousTimeLoss(weighting="unit"),
        training=Training(steps=steps, optimizer="adamw", **{**recipe, **training}),
        seed=seed,
    )


class Classifier(nn.Module):
    """A small convolutional network, whose features compare images."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.hidden, self.last = nn.Linear(32 * 49, 64), nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """64 features of images (B, 28, 28) in [-1, 1]."""
        return F.relu(self.hidden(self.convolutions(images.unsqueeze(1))))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the labels."""
        result: Tensor = self.last(self.features(images))
        return result


def looks(x: Data) -> Tensor:
    """Data of either kind as pixels in [-1, 1]."""
    assert isinstance(x, Tensor)
    return x.clamp(-1.0, 1.0) if x.is_floating_point() else 2.0 * x - 1.0


@cache
def classifier(pixels: Pixels) -> Classifier:
    """The classifier of a kind of pixels, trained once on the labels and then kept."""
    path = Cache.made(CACHE / f"classifier-{pixels}.pt", partial(_trained_classifier, pixels))
    with seeded(0, "classifier"):
        network = Classifier()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


@torch.inference_mode(False)
@torch.enable_grad()
def _trained_classifier(pixels: Pixels, path: Path) -> None:
    with seeded(0, "classifier"):
        network = Classifier()
        data, steps, rows = split(pixels, "all"), 1800, 128
        x, labels = looks(data.x), data.condition["label"]
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = torch.randint(len(x), (rows,))
            loss = F.cross_entropy(network(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    torch.save(network.state_dict(), path)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two sets of features: that of normal distributions with their means and covariances."""
    a, b = a.double(), b.double()
    covariances = torch.cov(a.T), torch.cov(b.T)
    values = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp_min(0.0)
    spread = covariances[0].trace() + covariances[1].trace() - 2.0 * values.sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


@cache
def reference(pixels: Pixels) -> Tensor:
    """Features of the second half of the held-out images."""
    with torch.inference_mode():
        return classifier(pixels).features(looks(split(pixels, "test").x[5000:]))


@torch.inference_mode()
def scores(x: Tensor, labels: Tensor, pixels: Pixels) -> dict[str, float]:
    """Frechet distance to held-out images, and the share of images that show the label asked for."""
    network, images = classifier(pixels), looks(x)
    accuracy = (network(images).argmax(1) == labels).float().mean()
    return {"distance": frechet(network.features(images), reference(pixels)), "accuracy": float(accuracy)}


def floor(n: int, pixels: Pixels) -> dict[str, float]:
    """Scores of n other held-out images, of which each label has as many, as samples have."""
    data = held_out(pixels, 5000)
    labels = data.condition["label"]
    index = torch.cat([(labels == label).nonzero()[: n // 10, 0] for label in range(10)])
    return scores(data.x[index], labels[index], pixels)


def asked(n: int) -> Tensor:
    """Labels of n samples, each as often."""
    return torch.arange(n) % 10


def samples(
    model: BFN, n: int, n_steps: int, sampler: Sampler[Any] | None = None, guidance: float = 0.0, seed: int = 0
) -> Tensor:
    """Samples of all labels, in turn."""
    guided = Guided(model, guidance) if guidance else model
    with seeded(seed, "samples"):
        x = guided.sample(n, n_steps=n_steps, sampler=sampler, condition={"label": asked(n)})
    assert isinstance(x, Tensor)
    return x


def held_out(pixels: Pixels, n: int = PRICED) -> Batch:
    """The first held-out images."""
    return split(pixels, "test").part(0, n)


@torch.inference_mode()
def price(model: BFN, pixels: Pixels, draws: int = 1, n: int = PRICED) -> dict[str, float]:
    """Bound in nats, given the label, and in bits per dimension.

    After the last message a point head pays for the bins of a normal distribution about the point, of deviation
    sigma_1, so that all heads are priced on the same bins.
    """
    data = held_out(pixels, n)
    bound: CodeLength = likelihood_bound(model, data, draws=draws)
    total, messages = bound.total, bound.messages
    if isinstance(model.family, Gaussian) and not isinstance(model.family.head, DiscretisedHead):
        with seeded(0, "price"):
            params = model.family.flow(data.x, torch.ones(n))
            last = torch.cat([_binned(model, rows, params, data) for rows in torch.arange(n).split(250)])
        value = messages.value + float(last.mean())
        return _in_units(value, messages.stderr)
    return _in_units(total.value, total.stderr)


def _binned(model: BFN, rows: Tensor, params: Any, data: Batch) -> Tensor:
    some = attrs.evolve(params, mean=params.mean[rows], precision=params.precision[rows])
    means = model.output(some, torch.ones(len(rows)), {"label": data.condition["label"][rows]}).mean.unsqueeze(-1)
    scales = torch.full_like(means, model.family.sigma_1)
    return -Binned(SiteNormalMixture(torch.zeros_like(means), means, scales), BINS).log_prob(data.x[rows])


def _in_units(nats: float, stderr: float) -> dict[str, float]:
    return {"nats": nats, "stderr": stderr, "bits": bits(nats), "bits_stderr": bits(stderr)}


def bits(nats: float, pixels: int = 784) -> float:
    """Bits per dimension of an image."""
    return nats / (pixels * math.log(2.0))
