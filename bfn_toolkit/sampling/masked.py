"""Samples with missing sites: sets and sequences of several sizes in one tensor.

The mask says where there is data; a size is the mask of the first sites.  It reaches every evaluation of the model, and
what samplers draw at missing sites is set to 0 (class 0) at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bfn_toolkit import masks
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.families import Family
from bfn_toolkit.model import Condition, Model, ModelWrapper
from bfn_toolkit.outputs import Output
from bfn_toolkit.shapes import Mask, Times, as_tensor, map_data


class MaskedModel(ModelWrapper):
    """Model of data some of whose sites are missing.

    Samplers use it like any model; :meth:`~bfn_toolkit.FlowModel.sample` builds one from its argument ``mask``.

    Arguments:
        model: The model.
        mask: True where there is data, one row per sample.
    """

    def __init__(self, model: Model, mask: Mask) -> None:
        super().__init__(model)
        self.mask = mask

    def output(self, params: Any, t: Times, condition: Condition | None = None, **told: Any) -> Output:
        """The model's output, told the mask."""
        output: Output = masks.told(self.model.output, params, t, condition, mask=self.mask, **told)
        return output

    def rows(self, index: Tensor) -> MaskedModel:
        """The same model with the masks of the rows ``index``."""
        return MaskedModel(self.model, map_data(lambda part: part[index], self.mask))


def checked_mask(family: Family[Any], mask: Mask, rows: int) -> Mask:
    """A mask of samples.

    Raises:
        ConfigError: If it is not of torch.bool, or does not have a row for each sample and leading axes of the sites.
    """
    sites = {part.name: part.family.network_io.site_shape for part in family.walk()}
    mask = map_data(lambda part: as_tensor("mask", part), mask)
    for name, part in mask.items() if isinstance(mask, Mapping) else [("", mask)]:
        where = f"the mask of part '{name}'" if name else "the mask"
        if name and name not in sites:
            raise ConfigError(f"{where}: the data have the parts {', '.join(filter(None, sites)) or 'none'}")
        shape = (rows, *sites.get(name, family.network_io.site_shape))
        found = tuple(part.shape)
        if not found or found != shape[: len(found)] or part.dtype != torch.bool:
            raise ConfigError(
                f"{where} must be of torch.bool with shape {shape}, or its first axes, and true where there is data; "
                f"found {part.dtype} of shape {found}"
            )
    return mask


def mask_of_sizes(family: Family[Any], sizes: Tensor) -> Mask:
    """Mask of the first sites of each example, for sets and sequences of several sizes.

    The sites are counted along the first axis: of parts whose first axis is named "set" or "sequence", or, if no part
    is like that, the first axis that all parts share.

    Arguments:
        family: The family.
        sizes: Number of sites of each example, with shape (B,).
    Raises:
        ConfigError: If the data have no such axis, or a size is not from 1 to its length.

    >>> from bfn_gaussian import Gaussian
    >>> mask_of_sizes(Gaussian(site_shape=(3, 2)), torch.tensor([1, 3]))
    tensor([[ True, False, False],
            [ True,  True,  True]])
    """
    io = family.network_io
    lengths = {name: part.shape[0] for name, part in io.parts.items() if part.axes[:1] in (("set",), ("sequence",))}
    if not lengths and io.site_shape:
        lengths = dict.fromkeys(io.parts, io.site_shape[0])
    if len(set(lengths.values())) != 1:
        raise ConfigError(
            "the data have no axis along which a size could be counted; name the first axis of a part, as in "
            'axes=("set",) or ("sequence",), or write mask= in place of sizes'
        )
    most, sizes = next(iter(lengths.values())), as_tensor("sizes", sizes)
    if sizes.ndim != 1 or sizes.is_floating_point() or not bool(((sizes >= 1) & (sizes <= most)).all()):
        raise ConfigError(f"sizes must be integers from 1 to {most} with shape (B,), got {sizes.tolist()}")
    mask = torch.arange(most, device=sizes.device) < sizes.unsqueeze(1)
    return dict.fromkeys(lengths, mask) if family.has_parts else mask
