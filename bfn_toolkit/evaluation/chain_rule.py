r"""Prices (negative log-likelihoods) of rows by the chain rule, for models that can be told any sites.

A *price* is a number of nats, the negative logarithm of a probability: that of a row is the sum of those of its sites,
each given the sites before it in an order :math:`\pi`,

.. math:: -\ln p_\pi(x) = \sum_k -\ln p_O(x_{\pi_k} \mid \theta_k), \qquad
          \theta_k \sim p_F(\cdot \mid x; 1 \text{ at } \pi_1 \dots \pi_{k-1}, \; 0 \text{ elsewhere}) .

Where a message tells a site exactly, as by an erasure, this is the probability with which
:class:`~bfn_toolkit.AnyOrderSampler` draws the row one site after another in this order.  Otherwise, where messages may
leave something open, it is a bound, like all means of a negative logarithm.  One evaluation of the network prices one
site of each row.

A network need not agree with itself: another order gives another price.  The sampler draws an order for each row, so
with J orders the price of the row is that of their mixture,

.. math:: -\ln \frac{1}{J} \sum_j p_{\pi_j}(x) \;\le\; \frac{1}{J} \sum_j -\ln p_{\pi_j}(x) ,

and the right side is the sum of the prices by site.  The orders are the same for all rows.  So a price is a function of
the row, whatever stands beside it, and the probabilities of all possible rows add up to one.

Unknown sites are left out: the model is never told them, and the others are priced without them.

Source: Uria et al. 2014 (arXiv 1310.1757), one network for all orders; Hoogeboom et al. 2022 (arXiv 2110.02037) for
erasures.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from bfn_toolkit.arguments import rows_of
from bfn_toolkit.data.dataset import Batch, Rows
from bfn_toolkit.errors import ConfigError
from bfn_toolkit.evaluation.likelihood import CHUNK, first_row
from bfn_toolkit.families import Family
from bfn_toolkit.masks import mask_of, present, told
from bfn_toolkit.model import Model, readable
from bfn_toolkit.randomness import seeded
from bfn_toolkit.sampling.chunks import Deal, RowsTogether, deal_here, map_chunks, rows_together
from bfn_toolkit.shapes import Data, device_of, dtype_of, in_float64
from bfn_toolkit.validators import whole_number

SURE = 100.0  # accuracy of a message that is not lost, as e^-100 is 0 beside 1


@attrs.frozen(eq=False)
class RowPrices:
    r"""Prices of rows, their negative log-likelihoods in nats, in float64.

    Arguments:
        total: Price of each row under the mixture of the orders, with shape (N,).
        sites: Price of each site given those before it, its mean over the orders, with shape (N, \*sites); 0 where it
            is unknown.  Their sum is the total for one order, and otherwise not below it.
    """

    total: Tensor
    sites: Tensor


def _told(family: Family[Any], x: Tensor, t: Tensor) -> Any:
    """Beliefs that were told the sites at time 1; a message that may be lost is not lost."""
    if not family.one_by_one:
        return family.flow(x, t)
    prior = family.prior(len(x), device=x.device, dtype=t.dtype)
    return family.draw_update(prior, x, SURE * t)


@torch.inference_mode()
def row_prices(model: Model, data: Rows | Data, *, orders: int = 1, seed: int = 0, deal: Deal = deal_here) -> RowPrices:
    """Negative log-likelihoods of rows by the chain rule; the theory is in :mod:`bfn_toolkit.evaluation.chain_rule`.

    Arguments:
        model: A model whose sites may have times of their own (:attr:`Family.site_times`).
        data: N examples: a tensor or array of data, a batch, or prepared rows.  NaN, or -1 for classes, stands at
            unknown sites.
        orders: Number J of random orders of the sites; the network is evaluated once for each site and order.
        seed: Seed of the orders.
        deal: Function that draws the chunks, as in :func:`likelihood_bound`.
    Raises:
        ConfigError: If the family has several parts or one time for all sites, the network reads one time for each
            example, or ``orders`` is not a positive integer.
    """
    family = model.family
    if family.has_parts or not family.site_times:
        why = "has several parts" if family.has_parts else "has one time for all sites"
        raise ConfigError(
            f"rows are priced site by site, and {type(family).__name__} {why}; write likelihood_bound(model, data)"
        )
    orders, data = whole_number("orders", orders, write=4), rows_of(model, data, gaps=True)
    n, shape, device = len(data), tuple(family.sites), device_of(first_row(data, seed).x)
    chunk_rows, count, fit = rows_together(family, CHUNK), math.prod(shape), RowsTogether()
    with seeded(seed, "orders"):
        sequences = torch.rand(orders, count).argsort(1).tolist()

    def prices_of(rows: Batch) -> Tensor:
        """Totals and prices by site: (rows, 1 + sites)."""
        size, condition, there = len(rows), readable(model, rows.condition), mask_of(rows.x, rows.mask)
        there = there & (~rows.x.isnan() if rows.x.is_floating_point() else rows.x >= 0)
        x, known = present(rows.x, there), there.reshape(size, count, -1).all(2)
        prices = in_float64(torch.zeros(size, orders, count, device=device))
        for order, sequence in enumerate(sequences):
            times = torch.zeros(size, count, dtype=dtype_of(x), device=device)
            for site in sequence:
                t, here = times.reshape(size, *shape), torch.zeros_like(known)
                here[:, site] = known[:, site]
                output = told(model.output, _told(family, x, t), t, condition, mask=rows.mask)
                prices[:, order, site] = in_float64(-output.log_prob(x, mask=here.reshape(size, *shape)))
                times[:, site] = known[:, site].to(times.dtype)
        total = math.log(orders) - (-prices.sum(2)).logsumexp(1, keepdim=True)
        return torch.cat([total, prices.mean(1)], 1)

    def chunk_prices(chunk: int) -> Tensor:
        rows = data[torch.arange(chunk * chunk_rows, (chunk + 1) * chunk_rows).remainder_(n)]
        prices: Tensor = fit.price(prices_of, rows, device)
        return prices

    prices: Tensor = map_chunks(range(n), chunk_rows, chunk_prices, (seed, "chain rule"), device=device, deal=deal)
    return RowPrices(prices[:, 0], prices[:, 1:].reshape(n, *shape))
