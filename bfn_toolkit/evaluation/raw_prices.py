"""Prices of rows in the user's form, in nats, by the model that a codec belongs to.

The price of a row is the negative logarithm of its probability.  A row that costs 10 nats more than another is
22,000 times (e^10) rarer under the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.bfn import BFN
from bfn_toolkit.data.dataset import Batch
from bfn_toolkit.data.formats import Raw
from bfn_toolkit.evaluation.chain_rule import row_prices
from bfn_toolkit.evaluation.likelihood import ROW_DRAWS, row_bounds
from bfn_toolkit.families import Family, check_present
from bfn_toolkit.model import dtype_of_beliefs
from bfn_toolkit.sampling.chunks import Deal, deal_here
from bfn_toolkit.shapes import Data, Mask, batch_size

ORDERS = 4  # default number of orders of the columns


@attrs.frozen(eq=False)
class RawPrices:
    """Prices of N rows, their negative log-likelihoods in nats, in float64 on the CPU.

    Arguments:
        total: Price of each row, with shape (N,).
        stderr: Its standard error, with shape (N,); None for a price by the chain rule, which has none.
        columns: Price of each cell given the cells before it, with shape (N,), by the name of its column; {} for
            prices that are not a sum over named columns.
    """

    total: Tensor
    stderr: Tensor | None
    columns: Mapping[str, Tensor]


def raw_prices(
    model: BFN,
    raw: Raw,
    *,
    orders: int = ORDERS,
    draws: int = ROW_DRAWS,
    seed: int = 0,
    deal: Deal = deal_here,
) -> RawPrices:
    """Negative log-likelihoods (prices) of rows in the user's form.

    Named columns of a family that is sampled one site after another (:attr:`Family.one_by_one`) are priced by the chain
    rule (:func:`row_prices`); for others the price is the likelihood bound of each row (:func:`likelihood_bound`),
    which is an estimate.  Gaps that are no value of the data are left out: the rest of the row is priced without them.

    Arguments:
        model: A model with the codec of its data.
        raw: N rows, such as those of :meth:`Codec.decode`.
        orders: Number of orders of the columns, which are averaged.
        draws: Number of draws per row of a bound.
        seed: Seed of the orders, or of the draws of a bound.
        deal: Function that draws the chunks, as in :func:`likelihood_bound`.
    Raises:
        ConfigError: If the network needs a condition.
        DataError: If a row cannot be encoded.
    """
    x, added = model.codec.priced(raw)
    family, device, n = model.family, next(model.parameters()).device, batch_size(x)
    dtype = dtype_of_beliefs(model) or torch.get_default_dtype()
    model.check_condition(None, n)
    filled, mask = _with_mask(family, x, dtype)
    check_present(family, filled, mask)
    names = model.codec.names
    if not (family.one_by_one and names):
        rows = Batch(filled, mask=mask).to(device)
        total, stderr = row_bounds(model, rows, n_steps=family.n_steps, draws=draws, seed=seed, deal=deal)
        return RawPrices(total.cpu(), stderr.cpu(), {})
    prices = row_prices(model, Batch(x.to(device, dtype)), orders=orders, seed=seed, deal=deal)
    cells = dict(zip(names, prices.sites.cpu().unbind(1), strict=True))
    none = torch.zeros(n, dtype=torch.float64)
    columns = {name: cells.get(name, none) + added.get(name, none) for name in {**added, **cells}}
    return RawPrices(sum(added.values(), prices.total.cpu()), None, columns)


def _with_mask(family: Family[Any], x: Data, dtype: torch.dtype) -> tuple[Data, Mask | None]:
    """Encoded rows without gaps, and a mask, false where they were; None if there were none."""
    values, masks = {}, {}
    for part in family.walk(x):
        rows = part.values[0]
        there = ~rows.isnan() if rows.is_floating_point() else rows >= 0
        rows = torch.where(there, rows, 0)
        values[part.name] = rows.long() if part.family.is_discrete else rows.to(dtype)
        masks[part.name] = there
    whole = all(bool(there.all()) for there in masks.values())
    return family.join(values), None if whole else family.join(masks)
