"""The hot paths on the meta device: it holds no values, so a read of one, or a mix of devices, raises here."""

import traceback
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.tiny import experiment
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from bfn_gaussian import DataHead, Gaussian, NoiseHead, SkipHead, UnsquaredNormLoss
from bfn_gaussian_heads import DiscretisedHead, DiscretisedMixtureHead, MixtureHead
from bfn_siren import Siren
from bfn_toolkit import (
    BFN,
    Batch,
    ContinuousTimeLoss,
    DiscreteTimeLoss,
    Family,
    Loss,
    OutputHead,
    default_sampler,
    importance_bound,
    in_float64,
    likelihood_bound,
    log_density,
    seeded,
    train,
)
from bfn_toolkit.data.column_codecs import TableCodec
from bfn_toolkit.evaluation.likelihood import row_bounds
from bfn_toolkit.guidance.regions import Region
from every_family import EVERY_FAMILY, draw, network

HEADS = [
    SkipHead(),
    NoiseHead(),
    DataHead(),
    MixtureHead(components=3),
    DiscretisedHead(bins=8),
    DiscretisedHead(bins=8, form="renormalised"),
    DiscretisedMixtureHead(bins=8, components=2),
]
LOSSES = [ContinuousTimeLoss(), ContinuousTimeLoss("unit"), DiscreteTimeLoss(5), UnsquaredNormLoss()]


def model(head: OutputHead) -> BFN:
    return BFN(Gaussian(site_shape=(3,), head=head), Siren(width=16)).to("meta")


def test_the_meta_device_does_refuse_reads() -> None:
    with pytest.raises(RuntimeError):
        torch.zeros(1, device="meta").item()


@pytest.mark.parametrize("head", HEADS, ids=str)
def test_sampling_reads_no_value_and_stays_on_its_device(head: OutputHead) -> None:
    bfn = model(head)
    sampler = default_sampler(bfn.family, 3)
    x = sampler.sample(bfn, 7, n_steps=3, device=torch.device("meta"))
    assert (x.device.type, x.shape) == ("meta", (7, 3))


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_training_reads_no_value_and_stays_on_its_device(loss: Loss, head: OutputHead) -> None:
    bfn = model(head)
    value = loss(bfn, torch.zeros(5, 3, device="meta"))
    value.mean().backward()
    assert (value.device.type, value.shape) == ("meta", (5,))
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in bfn.parameters())


class WithoutFloat64(TorchDispatchMode):
    """A device without float64, on the CPU: numbers in float32 are on it, those in float64 are not.

    They meet only in :func:`~bfn_toolkit.in_float64`, and where float64 is copied to the device.  Scalars go anywhere.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_flatten((args, kwargs, result))[0] if isinstance(leaf, Tensor) and leaf.ndim]
        both = {torch.float32, torch.float64} <= {leaf.dtype for leaf in tensors}
        copies = str(function).startswith(("aten.to", "aten._to_copy", "aten.copy_"))
        to_device = copies and tree_flatten(result)[0][0].dtype == torch.float32
        if both and not to_device:
            callers = {frame.f_code.co_name for frame, _ in islice(traceback.walk_stack(None), 16)}
            if "in_float64" in callers or (copies and "_engine_run_backward" in callers):  # of a copy to the device
                return result
            raise RuntimeError(f"{function}: float64 on a device without it")
        return result


def test_a_device_without_float64_does_refuse_it() -> None:
    with WithoutFloat64():
        wide = in_float64(torch.zeros(3))
        wide.float()
        for fault in (
            lambda: torch.zeros(3).double(),
            lambda: wide + torch.zeros(3),
            lambda: wide.copy_(torch.ones(3)),
        ):
            with pytest.raises(RuntimeError, match="float64 on a device"):
                fault()


def test_nothing_needs_float64_on_the_device(tmp_path: Path) -> None:
    with WithoutFloat64():
        run = train(experiment(validate_every=1, steps=2, ema_decay=0.9), tmp_path / "run")
        x = torch.rand(6, 1) - 0.5
        rows = Batch(x)
        run.model.codec.decode(run.model.sample(4, n_steps=2))
        likelihood_bound(run.model, rows, draws=2)
        row_bounds(run.model, rows, draws=2)
        importance_bound(run.model, rows, n_steps=2, particles=2)
        log_density(run.model, x)
        run.experiment.dataset.mode_shares(x)
        Region(0, (0.0,), (0.5,)).contains(x)
        TableCodec(shift=(1.0,), scale=(2.0,), decimals=(2,)).decode(x)


@EVERY_FAMILY
def test_no_family_needs_float64_on_the_device(family: Family[Any]) -> None:
    model = network(family)
    with WithoutFloat64():
        x = draw(model)
        likelihood_bound(model, Batch(x), draws=1, n_steps=family.n_steps)
        DiscreteTimeLoss(family.n_steps or 3)(model, x).mean().backward()


def test_seeds_reach_the_generator_of_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated by a generator of its own, for machines without it."""
    apple = torch.Generator()
    for name, verb in [
        ("manual_seed", apple.manual_seed),
        ("get_rng_state", apple.get_state),
        ("set_rng_state", apple.set_state),
    ]:
        monkeypatch.setattr(torch.mps, name, verb)
    before, drawn = apple.get_state(), []
    for _ in range(2):
        with seeded(3, "noise", device="mps"):
            drawn.append(torch.rand(5, generator=apple))
        assert torch.equal(apple.get_state(), before)
    assert torch.equal(*drawn)
    with seeded(4, "noise", device="mps"):
        assert not torch.equal(torch.rand(5, generator=apple), drawn[0])
