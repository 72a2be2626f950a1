"""The command about models that are installed: zoo."""

from __future__ import annotations

import click

from bfn_toolkit.cli.completion import complete_zoo
from bfn_toolkit.cli.display import aligned, echo, say
from bfn_toolkit.cli.options import Command


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn zoo
  bfn zoo digits                                    its card: purpose, limits, data, recipe and quality
  bfn sample zoo:digits -n 20 --condition label=3 --out digits.png""",
)
@click.argument("model", required=False, shell_complete=complete_zoo)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def zoo(model: str | None, as_json: bool) -> None:
    """List the trained models of the installed zoos, which other commands open as zoo:NAME; or print a MODEL's card."""
    import attrs

    from bfn_toolkit.sharing.zoo import OURS, ZooModel, card_of, located, zoos
    from bfn_toolkit.storage.files import shown_size, to_json

    if model is not None:
        name = model if ":" in model else f"{OURS}:{model}"
        folder = located(name)
        facts = ZooModel.of(name, folder)
        card = card_of(folder)
        echo(to_json({**attrs.asdict(facts), "path": str(folder), "card": card}) if as_json else card.rstrip("\n"))
        return
    names = {f"{zoo.name}:{name}": path for zoo in zoos().values() for name, path in zoo.models.items()}
    found = [ZooModel.of(name, path) for name, path in names.items()]
    if as_json:
        echo(to_json({"models": [{**attrs.asdict(facts), "path": str(facts.path)} for facts in found]}))
    elif found:
        headings = ("model", "draws", "parameters", "size", "quality", "licence of the data")
        rows = [
            (
                facts.name,
                facts.summary,
                "?" if facts.parameters is None else f"{facts.parameters:,}",
                shown_size(facts.size),
                facts.quality,
                facts.data_license,
            )
            for facts in found
        ]
        aligned([headings, *([cell or "-" for cell in row] for row in rows)])
    else:
        say("no zoo is installed; write: pip install bfn-zoo (in a checkout of bfn-toolkit: pip install ./zoo)")
