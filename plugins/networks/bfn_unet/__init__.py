r"""U-Nets (plugin): networks for images, of any size and with any number of channels.

.. math::
    h_0 &= \mathrm{conv} [\text{features}, \ldots], \qquad
    e = \mathrm{silu} (\mathrm{MLP}(\text{waves of } t) + E_{\text{label}} + \ldots), \\
    \text{block}(h) &= W h + \mathrm{conv} \, \mathrm{silu}
        \big( \mathrm{norm}(\mathrm{conv} \, \mathrm{silu} \, \mathrm{norm}(h)) (1 + A e) + B e \big)

The way down is a row of such blocks at each level, with half the height and width at the next; on the way up, each
block sees the result of one on the way down beside that of the block before.  The last layer sees the features too,
and starts at zero, so a fresh network returns zeros; under a head with a skip path that is the best linear estimate.

========================== ==========================================================================
:class:`UNet`              for images, with labels, other conditions, masks and parts that are not images
:class:`ImprovedUNet`      the network of the paper for binarised MNIST
:class:`VDMUNet`           the network of the paper for CIFAR-10
========================== ==========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from bfn_toolkit import Entry, hookimpl
from bfn_unet.builders import ImprovedUNet, UNet, VDMUNet
from bfn_unet.network import UNetModule

__all__ = ["ImprovedUNet", "UNet", "UNetModule", "VDMUNet"]


@hookimpl
def bfn_networks() -> Sequence[Entry]:
    """The networks."""
    small = UNet(width=8, blocks=1, heads=2, groups=2)
    options = UNet(
        width=8,
        multipliers=(1, 1, 2),
        blocks=1,
        attention=(2,),
        heads=2,
        groups=2,
        patch=1,
        fourier=(1,),
        dropout=0.1,
        labels=3,
        condition_shapes={"vector": (2,), "image": (5, 4)},
        site_times=True,
        masks=True,
        gradient_checkpointing=True,
    )
    improved = ImprovedUNet(width=32, multipliers=(1, 2), blocks=1, dropout=0.1)
    vdm = VDMUNet(width=16, blocks=1, groups=8, heads=2, attention_everywhere=True)
    return [
        Entry("unet", UNet, (small, options)),
        Entry("unet-improved", ImprovedUNet, (improved,)),
        Entry("unet-vdm", VDMUNet, (vdm,)),
    ]
