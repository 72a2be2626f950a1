"""The hot paths on the meta device: it holds no values, so a read of one, or a mix of devices, raises here."""

import pytest
import torch

from bfn_gaussian import DataHead, Gaussian, NoiseHead, SkipHead, UnsquaredNormLoss
from bfn_gaussian_heads import DiscretisedHead, DiscretisedMixtureHead, MixtureHead
from bfn_siren import Siren
from bfn_toolkit import BFN, ContinuousTimeLoss, DiscreteTimeLoss, Loss, OutputHead, default_sampler

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
