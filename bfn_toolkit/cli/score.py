"""The command that computes the negative log-likelihood of rows: score."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import click

from bfn_toolkit.cli.display import echo, sampling, stdout_bytes
from bfn_toolkit.cli.options import PATH, POSITIVE, RUN, Command, Integer, model_options, open_run
from bfn_toolkit.errors import ConfigError


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn score runs/001 people.csv --out prices.csv
  bfn score runs/001 people.csv --out -             print them
  bfn score runs/001 people.csv --out prices.csv --orders 16""",
)
@click.argument("run", type=RUN)
@click.argument("rows", type=PATH)
@click.option("--out", type=PATH, required=True, help="Table to write: .csv, .npy or .safetensors; - prints it.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--orders", type=POSITIVE, help="For a table: number of orders of its columns that are averaged  [default: 4]"
)
@click.option("--draws", type=Integer(min=2), help="For other data: number of Monte Carlo draws per row  [default: 64]")
@model_options
def score(run: Path, rows: Path, out: Path, force: bool, orders: int | None, draws: int | None, **choice: Any) -> None:
    """Compute the negative log-likelihood of the ROWS of a file under the model of a RUN, in nats.

    It is called the price of a row: high for rare rows, low for common ones.  A row of 20 nats is e^10 = 22,000 times
    less probable than one of 10.  For a table the price is exact: the sum of the prices of its cells, each given the
    cells before it, averaged over random orders.  The column "percentile" is the percentage of training rows with a
    lower price.  For other data the price is an upper bound, with its standard error.

    An empty cell of a table has a price if its column had gaps in the training, and is otherwise left out.  A cell that
    the model never draws, such as a new category, is named in a warning, and counts as rarer than one training row.
    """
    from bfn_toolkit.data.codec import raw_size
    from bfn_toolkit.evaluation.likelihood import ROW_DRAWS
    from bfn_toolkit.evaluation.raw_prices import ORDERS
    from bfn_toolkit.parallel.processes import is_main_process
    from bfn_toolkit.parallel.signals import listening
    from bfn_toolkit.runs.pricing import PricePlan, write_prices

    to_stdout = str(out) == "-"
    if not to_stdout and out.exists() and not force:
        raise ConfigError(f"{out} exists; choose another --out, or replace it with --force")
    opened = open_run(run, choice)
    seed = opened.experiment.seed if choice["seed"] is None else choice["seed"]
    raw = opened.codec.read_rows(rows)
    to: Path | BinaryIO = out
    if to_stdout:
        to = stdout_bytes() if is_main_process() else io.BytesIO()
    with listening(), sampling(raw_size(raw), "rows") as show:
        write_prices(opened, raw, to, PricePlan(orders or ORDERS, draws or ROW_DRAWS, seed), show)
    if is_main_process() and not to_stdout:
        echo(str(out))
