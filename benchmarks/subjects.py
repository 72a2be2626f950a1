"""What the samplers are tried on: data, models trained on them, models that know the posterior, and distances.

A network is trained once and then kept in the folder for temporary files, by a hash of all that it is a function of.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from bfn_categorical import Categorical
from bfn_gaussian import Gaussian, NoiseHead
from bfn_gaussian_mixture import GaussianMixture
from bfn_markov import Markov
from bfn_mixed import Mixed
from bfn_mlp import MLP
from bfn_toolkit import BFN, Batch, ContinuousTimeLoss, Dataset, FlowModel, NetworkIO, Split, mmd, seeded
from bfn_toolkit.config.experiment import Experiment, Training
from bfn_toolkit.training.trainer import train
from bfn_toy2d import Toy2d, _nodes

from . import distances, oracles

CACHE = Path(tempfile.gettempdir()) / "bfn-bench-quality"
HELD_OUT = 600  # digits
# Four clusters in 16 columns, each of mean 0 and variance 1; and a mode of 0.2 % of the rows at 20 deviations.
SIGNS = torch.tensor([[1, 1, 1, 1, -1, -1, -1, -1] * 2, [1, -1, 1, -1, 1, -1, -1, 1] * 2])
TABLE = tuple(tuple(row) for row in (0.9 * torch.cat([SIGNS, -SIGNS])).tolist())
TAILS = GaussianMixture((0.0, 20.0), 1.0, count=(49_900, 100))
RING = tuple((0.8 * math.cos(k * math.pi / 4), 0.8 * math.sin(k * math.pi / 4)) for k in range(8))
Distance = Callable[[Tensor, Tensor], float]


@attrs.frozen
class ReferenceDigits(Dataset):
    """Digits of 8 x 8 pixels scaled to [-1, 1], of which 600 are held out: the setting of the published comparison."""

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(64,)."""
        return (64,)

    def split(self, name: Split) -> Batch:
        """The held-out digits for "test" and "valid"; else the others."""
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        x = torch.from_numpy(load_digits().data).float() / 8.0 - 1.0
        with seeded(0, "digits"):
            order = torch.randperm(len(x))
        return Batch(x[order[:HELD_OUT] if name in ("test", "valid") else order[HELD_OUT:]])


@attrs.frozen
class BinaryDigits(Dataset):
    """The same digits, of whose pixels it is known whether they are at least half dark."""

    @property
    def site_shape(self) -> tuple[int, ...]:
        """(64,)."""
        return (64,)

    def split(self, name: Split) -> Batch:
        """The splits of the reference digits."""
        return Batch((ReferenceDigits().split(name).x >= 0.0).long())


def kept(name: str, key: str, make: Callable[[], nn.Module], fresh: nn.Module) -> nn.Module:
    """A trained module: that of an earlier call, in ``fresh``, or a new one."""
    path = CACHE / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
    if path.exists():
        fresh.load_state_dict(torch.load(path, weights_only=True))
        return fresh.eval()
    start = time.process_time()
    made = make().eval()
    print(f"{name}: trained in {time.process_time() - start:.0f} s", flush=True)
    CACHE.mkdir(exist_ok=True)
    torch.save(made.state_dict(), path)
    return made


def bfn(name: str, experiment: Experiment) -> BFN:
    """The trained model of an experiment."""
    fresh = BFN(experiment.family, experiment.network)
    network = kept(name, repr(experiment), lambda: train(experiment).model.network, fresh.network)
    return BFN(experiment.family, network).eval()


class LinearFlow(nn.Module):
    r"""Flow matching on straight paths, the peer: dx/dt = F(x, t), trained on x_t = (1 - t) z + t x for x - z.

    Source: Lipman et al. 2022 (arXiv 2210.02747); Liu et al. 2022 (arXiv 2209.03003).
    """

    def __init__(self, network: MLP, size: int) -> None:
        super().__init__()
        self.network, self.size = network.build(NetworkIO((size,))), size

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.network(x.unsqueeze(-1), t.expand(len(x))).squeeze(-1)
        return out

    def fit(self, data: Tensor, training: Training, seed: int) -> LinearFlow:
        """Trains with the same optimiser, batches, schedule and average as the toolkit's loop."""
        rate = training.lr
        optimizer = torch.optim.Adam(self.parameters(), lr=rate, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
        average = torch.optim.swa_utils.AveragedModel(
            self, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(training.ema_decay)
        )
        with seeded(seed, "flow matching"):
            for _ in range(training.steps):
                x = data[torch.randint(len(data), (training.batch_size,))]
                t, z = torch.rand(len(x)), torch.randn_like(x)
                loss = (self(torch.lerp(z, x, t.unsqueeze(1)), t) - (x - z)).square().sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters(), training.clip_norm)
                optimizer.step()
                scheduler.step()
                average.update_parameters(self)
        self.load_state_dict(average.module.state_dict())
        return self

    @torch.inference_mode()
    def draw(self, rows: int, evaluations: int, *, midpoint: bool) -> Tensor:
        """Samples by Euler steps, or by half as many midpoint steps."""
        x, steps = torch.randn(rows, self.size), evaluations // (2 if midpoint else 1)
        for i in range(steps):
            slope = self(x, torch.tensor(i / steps))
            if midpoint:
                slope = self(x + slope * (0.5 / steps), torch.tensor((i + 0.5) / steps))
            x = x + slope / steps
        return x


@attrs.frozen(eq=False, slots=False)
class Subject:
    """One data set.

    Arguments:
        name: What it is called.
        configuration: Of the experiment, above the data set's recipe; or the experiment itself without its seed.
        fresh: Draws rows that no network has seen, by a seed; seed 0 gives those to compare with.
        distances: Distances of samples from the data by name; the first is drawn and tabled at all evaluations.
        oracle: The model that knows the posterior.
        peer: Whether flow matching is trained too.
        starts: Whether grids that start elsewhere are tried.
        columns: What is compared of an example, as one row of numbers.
    """

    name: str
    configuration: Mapping[str, Any] | Experiment
    fresh: Callable[[int], Tensor]
    distances: Mapping[str, Distance]
    oracle: Callable[[Any], FlowModel]
    peer: bool = False
    starts: bool = False
    columns: Callable[[Any], Tensor] = lambda x: x

    @cached_property
    def reference(self) -> Tensor:
        """The rows to compare with."""
        return self.fresh(0)

    def experiment(self, seed: int) -> Experiment:
        """What is trained."""
        if isinstance(self.configuration, Experiment):
            return attrs.evolve(self.configuration, seed=seed)
        return Experiment.from_mapping({**self.configuration, "seed": seed}, base="default")

    @cache  # noqa: B019 - there are few
    def model(self, seed: int) -> BFN:
        """The trained model."""
        return bfn(self.name.replace(" ", "-"), self.experiment(seed))

    @cache  # noqa: B019 - there are few
    def flow(self, seed: int) -> LinearFlow:
        """The trained peer."""
        experiment = self.experiment(seed)
        data = experiment.dataset.split("train").x
        with seeded(seed, "weights"):
            peer = LinearFlow(experiment.network, data.shape[1])
        made = kept("flow-matching", repr(experiment), lambda: peer.fit(data, experiment.training, seed), peer)
        assert isinstance(made, LinearFlow)
        return made


def rows_of(dataset: Callable[[int], Dataset], rows: int) -> Callable[[int], Tensor]:
    """Draws of a data set by a seed; of more rows than are taken, so that their modes have no fixed shares."""

    def draw(seed: int) -> Tensor:
        x = dataset(seed).split("test").x
        with seeded(seed, "rows"):
            return x[torch.randperm(len(x))[:rows]]

    return draw


def digits_rows(seed: int, data: Dataset = ReferenceDigits()) -> Tensor:
    """The held-out digits, or as many of the others."""
    if seed == 0:
        return data.split("test").x
    x = data.split("train").x
    with seeded(seed, "rows"):
        return x[torch.randperm(len(x))[:HELD_OUT]]


def _mixture(means: Any, std: float, weights: Any = None) -> Callable[[Gaussian], FlowModel]:
    centres = torch.tensor(means, dtype=torch.float64).reshape(len(means), -1)
    shares = torch.full((len(centres),), 1.0 / len(centres)) if weights is None else torch.tensor(weights)
    return lambda family: oracles.cloud(family, centres, shares, std)


def _moons(family: Gaussian) -> FlowModel:
    nodes, weights = _nodes("moons", Toy2d().noise)
    return oracles.cloud(family, nodes.flatten(0, 1), weights.repeat(len(nodes)) / len(nodes), Toy2d().noise)


def _copies(family: Gaussian) -> FlowModel:
    x = ReferenceDigits().split("train").x
    return oracles.cloud(family, x, torch.full((len(x),), 1.0 / len(x)), 0.0)


def _bits(family: Any) -> FlowModel:
    return oracles.copies(family, BinaryDigits().split("train").x)


def _row(x: Mapping[str, Tensor]) -> Tensor:
    """A row of mixed data as numbers: position, direction, and one-hot class."""
    kind = nn.functional.one_hot(x["type"].squeeze(1), Mixed().classes)
    return torch.cat([x["position"], x["angle"].cos(), x["angle"].sin(), kind], 1)


def _mixed_rows(seed: int) -> Tensor:
    with seeded(seed, "rows"):
        return _row(Mixed(count=2000, seed=seed + 10).split("test").x)


PLANE: Mapping[str, Distance] = {
    "sliced W2": lambda a, b: distances.sliced(a, b, 2),
    "sliced W1": lambda a, b: distances.sliced(a, b, 1),
    "1000 MMD": lambda a, b: 1000.0 * mmd(a, b),
}


@cache
def subjects() -> Mapping[str, Subject]:
    """All of them, by short names."""
    four, ring, chain, digits = GaussianMixture(), GaussianMixture(RING, 0.05, 2000), Markov(), ReferenceDigits()
    reference = Experiment(
        digits,
        Gaussian((64,), sigma_1=math.sqrt(1e-3), head=NoiseHead()),  # clips to [-1, 1], where most pixels are
        MLP(width=256, depth=3),
        ContinuousTimeLoss("unit"),
        Training(steps=6000, batch_size=128, lr=1e-3, ema_decay=0.999),
    )
    table = GaussianMixture(TABLE, 0.436, 2000)
    bits = attrs.evolve(reference, dataset=BinaryDigits(), family=Categorical((64,), 2))
    return {
        "four": Subject(
            "four Gaussians",
            {"dataset": "gaussian-mixture"},
            rows_of(lambda seed: GaussianMixture(count=20_000, seed=seed), 4000),
            {"W1": lambda a, b: distances.sliced(a, b, 1), "W2": lambda a, b: distances.sliced(a, b, 2)},
            _mixture(four.means, 0.05),
        ),
        "ring": Subject(
            "ring of eight Gaussians",
            {"dataset": {"name": "gaussian-mixture", "means": RING, "count": 2000}},
            rows_of(lambda seed: GaussianMixture(RING, 0.05, 10_000, seed=seed), 2000),
            PLANE,
            _mixture(ring.means, 0.05),
            starts=True,
        ),
        "moons": Subject(
            "two moons", {"dataset": "toy2d"}, rows_of(lambda seed: Toy2d(seed=seed + 10), 2000), PLANE, _moons
        ),
        "markov": Subject(
            "Markov chain",
            {"dataset": "markov"},
            rows_of(lambda seed: attrs.evolve(chain, transition=chain.matrix.tolist(), seed=seed + 10), 2000),
            {"excess of -ln p, nats": lambda a, b: distances.excess(a, chain), "TV of pairs": distances.pairs},
            lambda family: oracles.chain(family, chain),
        ),
        "digits": Subject(
            "digits",
            reference,
            digits_rows,
            {
                "8 x sliced W2": lambda a, b: 8.0 * distances.sliced(a, b, 2),
                "8 x sliced W1": lambda a, b: 8.0 * distances.sliced(a, b, 1),
                "1000 MMD": PLANE["1000 MMD"],
            },
            _copies,
            peer=True,
            starts=True,
        ),
        "bits": Subject(
            "binary digits",
            bits,
            lambda seed: digits_rows(seed, BinaryDigits()),
            {
                "8 x sliced W2": lambda a, b: 8.0 * distances.sliced(a, b, 2),
                "TV of pairs": distances.pairs,
                "1000 MMD": PLANE["1000 MMD"],
            },
            _bits,
        ),
        "table": Subject(
            "standardised table of 16 columns",
            {"dataset": {"name": "gaussian-mixture", "means": TABLE, "std": 0.436, "count": 2000}, "network": "mlp"},
            rows_of(lambda seed: attrs.evolve(table, count=10_000, seed=seed), 4000),
            PLANE,
            _mixture(TABLE, 0.436),
        ),
        "tails": Subject(
            "a rare mode far away",
            {"dataset": {"name": "gaussian-mixture", "means": (0.0, 20.0), "std": 1.0, "count": (49_900, 100)}},
            rows_of(lambda seed: attrs.evolve(TAILS, seed=seed), 20_000),
            {
                "W1": lambda a, b: distances.sliced(a, b, 1),
                "% beyond 10": lambda a, _: 100.0 * float((a > 10.0).double().mean()),
            },
            _mixture((0.0, 20.0), 1.0, (0.998, 0.002)),
        ),
        "mixed": Subject(
            "mixed data",
            {"dataset": "mixed"},
            _mixed_rows,
            PLANE,
            lambda family: oracles.mixed(family, Mixed()),
            columns=_row,
        ),
    }
