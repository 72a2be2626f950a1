"""The commands about stored models: checkpoint, export and import-checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bfn_toolkit.cli.completion import complete_presets, names_of_kind
from bfn_toolkit.cli.display import checkpoints_table, echo, say
from bfn_toolkit.cli.options import (
    PATH,
    POSITIVE,
    RUN,
    Command,
    ExperimentCommand,
    Group,
    parse_overrides,
    path_and_options,
    trust_options,
)
from bfn_toolkit.errors import ConfigError


@click.group(cls=Group, epilog="Example:  bfn checkpoint verify runs/001")
def checkpoint() -> None:
    """List and verify the checkpoints of a run."""


def _checkpoints_of(run: Path, as_json: bool, *, verify: bool) -> bool:
    from bfn_toolkit.errors import RunDirectoryError
    from bfn_toolkit.runs.checkpoints import list_checkpoints
    from bfn_toolkit.runs.model_files import DESCRIPTION, verify_model
    from bfn_toolkit.runs.records import EXPERIMENT, faults
    from bfn_toolkit.storage.files import to_json

    if not (run / EXPERIMENT).is_file():
        raise RunDirectoryError(f"{run} is not a run directory: it holds no {EXPERIMENT}")
    listed = list_checkpoints(run, verify=verify)
    rows = [
        {"name": one.path.name, "step": one.step, "valid_loss": one.valid_loss, "bytes": one.size, "fault": one.fault}
        for one in listed
    ]
    if verify and (run / DESCRIPTION).exists():
        rows.append(verify_model(run))
    if verify:
        none = {"step": None, "valid_loss": None, "bytes": 0}
        rows += [{"name": name, **none, "fault": fault} for name, fault in faults(run)]
    if as_json:
        echo(to_json({"run": str(run), "checkpoints": rows}))
    else:
        checkpoints_table(rows, verified=verify)
    return all(row["fault"] is None for row in rows)


@checkpoint.command("list", epilog="Example:  bfn checkpoint list runs/001")
@click.argument("run", type=RUN)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def list_command(run: Path, as_json: bool) -> None:
    """List the checkpoints of a RUN: step, validation loss, size."""
    _checkpoints_of(run, as_json, verify=False)


@checkpoint.command(epilog="Example:  bfn checkpoint verify runs/001")
@click.argument("run", type=RUN)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def verify(run: Path, as_json: bool) -> int:
    """Read every byte of the checkpoints and the model of a RUN; exit status 4 if one is damaged."""
    return 0 if _checkpoints_of(run, as_json, verify=True) else 4


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn export runs/first --out my-model
  bfn export runs/first --out my-model --license mit --weights raw
  bfn export runs/first --out my-onnx --format onnx   then, without this toolkit: python my-onnx/sample.py -n 16
  bfn export runs/first --out my-onnx --format onnx --sampler ancestral --steps 50""",
)
@click.argument("run", type=RUN)
@click.option("--out", type=PATH, required=True, help="Directory to make.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["safetensors", "torch-export", "onnx"]),
    default="safetensors",
    show_default=True,
    help="A saved model of this toolkit (safetensors), or its sampler as a program for torch or onnxruntime.",
)
@click.option("--license", "license_", help="Licence of the model, as the Hugging Face Hub writes it: mit, ...")
@click.option(
    "--sampler",
    shell_complete=names_of_kind("sampler"),
    help="Name of the sampler of the program  [default: chosen from the family and the number of steps]",
)
@click.option("--steps", type=POSITIVE, help="Number of steps of the program  [default: as for bfn sample]")
@click.option("--guidance", type=float, help="Weight of classifier-free guidance of the program  [default: 0]")
@click.option("--force", is_flag=True, help="Replace the model that is in --out.")
@click.option(
    "--checkpoint", default="final", show_default=True, metavar="final|last|best|STEP", help="Checkpoint to export."
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "ema", "raw"]),
    default="auto",
    show_default=True,
    help="The moving average of the weights (ema) or the weights themselves (raw); auto: ema if there is one.",
)
@trust_options
def export(
    run: Path,
    out: Path,
    format_: Any,
    license_: str | None,
    sampler: str | None,
    steps: int | None,
    guidance: float | None,
    force: bool,
    **choice: Any,
) -> None:
    """Export the model of a RUN to a directory that can be shared.

    With --format safetensors: config.json, model.safetensors and README.md, a saved model that this toolkit opens.
    With onnx or torch-export: the sampler as a program, and sample.py, which runs it without this toolkit, by numpy and
    onnxruntime or by numpy and torch.

    RUN is a run directory, a saved model, or a model of a zoo, such as zoo:digits.
    """
    from bfn_toolkit.runs.run import Run
    from bfn_toolkit.sharing.export import export_run, open_model

    if format_ == "safetensors":
        for option, value in (("--sampler", sampler), ("--steps", steps), ("--guidance", guidance)):
            if value is not None:
                raise ConfigError(f"{option} goes with --format onnx or torch-export: a saved model works with any")
        export_run(Run.open(run, **choice), out, card={"license": license_} if license_ else None, force=force)
    else:
        if license_:
            raise ConfigError("--license goes with a saved model, which has a card; leave out --format")
        from bfn_toolkit.sharing.runtime_export import export_programs

        opened, weight = open_model(run, **choice), guidance or 0.0
        say("tracing the steps of the sampler; a network of images takes half a minute")
        export_programs(opened, out, format_, sampler=sampler, n_steps=steps, guidance=weight, force=force)
    echo(str(out))


@click.command(
    cls=ExperimentCommand,
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  bfn import-checkpoint model.pt --out runs/theirs --config theirs.toml
  bfn import-checkpoint model.pt --out runs/theirs --network.width 256 --key ema --cast""",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="FILE")
@click.option("--out", type=PATH, required=True, help="Run directory to make.")
@click.option("--force", is_flag=True, help="Replace the run that is in --out.")
@click.option("--config", type=PATH, help="TOML file of the experiment.")
@click.option("--preset", shell_complete=complete_presets, help="Preset to start from.")
@click.option("--key", help="Name of the weights in the file: model, ema, ...")
@click.option("--cast", is_flag=True, help="Cast weights of another floating-point type.")
@click.option("--drop", multiple=True, metavar="PATTERN", help="Leave out tensors with matching names (repeatable).")
@click.option(
    "--max-size", type=POSITIVE, metavar="BYTES", help="Largest size of the file  [default: 16 times the network]"
)
def import_checkpoint(
    words: tuple[str, ...],
    out: Path,
    config: Path | None,
    preset: str | None,
    force: bool,
    max_size: int | None,
    **choice: Any,
) -> None:
    """Import the weights in another program's FILE (.pt, .safetensors) into a run directory.

    Fields of the experiment are options, as for bfn train: --network.width 256.  Nothing in the file is executed.
    """
    path, options = path_and_options(words)
    if path is None:
        raise ConfigError("name the file to import: bfn import-checkpoint FILE --out RUN")
    from bfn_toolkit.config.experiment import Experiment
    from bfn_toolkit.sharing import import_weights

    experiment = Experiment.from_toml(config, preset, parse_overrides(options))

    select = import_weights.Selection(**choice)
    imported = import_weights.import_checkpoint(path, out, experiment, select, max_size=max_size, force=force)
    say(f"kept: {len(imported.kept)} tensors under '{imported.key}'")
    listed = (("cast", imported.cast), ("dropped", imported.dropped), ("also fit, with --key", imported.others))
    for what, names in listed:
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            say(f"{what}: {', '.join(names[:10])}{more}")
    echo(str(out))
