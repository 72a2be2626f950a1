"""Prices (negative log-likelihoods) of the rows of a file under the model of a run, beside its training rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import attrs
import torch
from torch import Tensor

from bfn_toolkit.data.codec import raw_size
from bfn_toolkit.data.column_codecs import TableCodec
from bfn_toolkit.data.formats import Raw
from bfn_toolkit.data.rows import spread
from bfn_toolkit.errors import BFNError, BFNWarning
from bfn_toolkit.evaluation.likelihood import ROW_DRAWS
from bfn_toolkit.evaluation.raw_prices import ORDERS, raw_prices
from bfn_toolkit.parallel import processes
from bfn_toolkit.parallel.chunks import deal_chunks
from bfn_toolkit.randomness import seeded
from bfn_toolkit.runs.run import Run
from bfn_toolkit.runs.sample_files import SampleStream, sample_file
from bfn_toolkit.shapes import Data

COMPARED = 1000  # largest number of training rows whose prices are compared
TOGETHER = 2**14  # rows that are written together
ROUNDING = 1e-4  # nats; prices of equal rows may differ in the last digits of float32
DECIMALS = 6  # of nats in a file


@attrs.frozen
class PricePlan:
    """Settings of the prices of a file.

    Arguments:
        orders: Number of orders of the columns, which are averaged.
        draws: Number of draws per row of a bound.
        seed: Seed of the orders, or of the draws of a bound.
    """

    orders: int = ORDERS
    draws: int = ROW_DRAWS
    seed: int = 0


def training_prices(run: Run, plan: PricePlan) -> Tensor | None:
    """Prices of at most :data:`COMPARED` training rows in increasing order; None, with a warning, without the data."""
    try:
        rows = run.rows("train")
        with seeded(0, "rows"):
            some = rows[spread(len(rows), COMPARED)]
    except BFNError as error:
        warnings.warn(f"no percentiles, because the training rows cannot be read: {error}", BFNWarning, stacklevel=2)
        return None
    raw = run.codec.decode(some.x, some.mask)
    return raw_prices(run.model, raw, orders=plan.orders, seed=plan.seed, deal=deal_chunks).total.sort().values


def write_prices(run: Run, raw: Raw, to: Path | BinaryIO, plan: PricePlan, show: Callable[[int], object]) -> None:
    """Writes the prices of rows as a table, some rows at a time.

    The columns are the number of the row, from 1, its price in nats, and for a table the percentage of the training
    rows that cost less, and the price of each cell; for other data the standard error of the price.

    Arguments:
        run: The run.
        raw: Rows in the user's form.
        to: The file, or a stream.
        plan: Settings of the prices.
        show: Called with the number of rows written so far.
    """
    n = raw_size(raw)

    def deal(numbers: range, draw: Callable[[int], Data], device: torch.device | str) -> list[Data]:
        def drawn(number: int) -> Data:
            processes.check_signals()
            chunk = draw(number)
            show(n * (number + 1) // numbers.stop)
            return chunk

        return deal_chunks(numbers, drawn, device)

    prices = raw_prices(run.model, raw, orders=plan.orders, draws=plan.draws, seed=plan.seed, deal=deal)
    columns = {"row": torch.arange(1.0, n + 1.0), "nats": prices.total}
    if prices.stderr is None:
        columns["percentile"] = _percentile(prices.total, training_prices(run, plan))
        columns |= {f"{name}_nats": nats for name, nats in prices.columns.items()}
    else:
        columns["stderr"] = prices.stderr
    if not processes.is_main_process():
        return
    codec = TableCodec(
        names=list(columns), decimals=[{"row": 0, "percentile": 1}.get(name, DECIMALS) for name in columns]
    )
    with sample_file(to, n, codec=codec) if isinstance(to, Path) else nullcontext(SampleStream(to, n, codec)) as file:
        for start in range(0, n, TOGETHER):
            part = [column[start : start + TOGETHER] for column in columns.values()]
            file.append(codec.decode(torch.stack(part, 1)))


def _percentile(prices: Tensor, compared: Tensor | None) -> Tensor:
    """Percentage of the compared prices that are below each price; NaN without them."""
    if compared is None:
        return torch.full_like(prices, torch.nan)
    return 100.0 * torch.searchsorted(compared, prices - ROUNDING) / len(compared)
