"""The commands about what is installed: plugins, presets, check and new-plugin."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bfn_toolkit.cli.completion import complete_parts, complete_presets
from bfn_toolkit.cli.display import aligned, echo, part_pages, presets_list, say, verdicts_table
from bfn_toolkit.cli.options import PATH, POSITIVE, Command
from bfn_toolkit.errors import ConfigError


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn plugins
  bfn plugins unet                                  its docstring, its fields, and what it works with
  bfn plugins --json""",
)
@click.argument("name", required=False, shell_complete=complete_parts)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--verbose", is_flag=True, help="Also show the tracebacks of failures.")
def plugins(name: str | None, as_json: bool, verbose: bool) -> None:
    """List the installed components, and plugins that failed to load, with the reason; or describe component NAME."""
    from bfn_toolkit.config.parts import part_details, part_lines
    from bfn_toolkit.registry.registry import default_registry
    from bfn_toolkit.storage.files import to_json

    registry = default_registry()
    if name is not None:
        details = part_details(name, registry)
        if as_json:
            echo(to_json({"parts": details}))
        else:
            part_pages(details)
        return
    found = part_lines(registry)
    failed = [
        {
            "entry_point": failure.entry_point,
            "distribution": failure.distribution,
            "version": failure.version,
            "reason": failure.reason,
            **({"traceback": failure.traceback} if verbose else {}),
        }
        for failure in registry.failures
    ]
    if as_json:
        echo(to_json({"plugins": found, "failures": failed, "problems": list(registry.problems)}))
        return
    aligned([(part["kind"], part["name"], part["distribution"], part["description"]) for part in found])
    for failure in failed:
        echo(f"failed: {failure['entry_point']} of {failure['distribution']}: {failure['reason']}")
        if verbose:
            echo(failure["traceback"])
    for problem in registry.problems:
        echo(f"problem: {problem}")


@click.command(cls=Command, epilog="Examples:\n\n  bfn presets\n\n  bfn presets mnist > mine.toml")
@click.argument("name", required=False, shell_complete=complete_presets)
def presets(name: str | None) -> None:
    """List the presets for bfn train --preset NAME, with their sources, or print one as TOML."""
    from bfn_toolkit.config.layers import preset_text, presets as names

    if name is None:
        presets_list({name: preset_text(name) for name in names()})
    else:
        echo(preset_text(name).removesuffix("\n"))


def _expectations(texts: Sequence[str]) -> dict[str, str]:
    expected = {}
    for text in texts:
        law, equals, reason = text.partition("=")
        if not equals or not reason.strip():
            raise ConfigError(
                f"--expect {text}: the reason is missing; write --expect '{law}=why it is known to be broken'"
            )
        expected[law.strip()] = reason.strip()
    return expected


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn check gaussian
  bfn check my_plugin.py:MyFamily --law bayes-rule --examples 500
  bfn check my_package.my_module:instance --expect "accuracies-add=they do not, by design\"""",
)
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...", shell_complete=complete_parts)
@click.option("--law", "laws", multiple=True, help="Run only this law (repeatable).")
@click.option("--examples", type=POSITIVE, help="Number of random examples that a law is tested on.")
@click.option(
    "--expect", multiple=True, metavar="LAW=REASON", help="A law that is known to be broken, and why (repeatable)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def check(
    subjects: tuple[str, ...], laws: tuple[str, ...], examples: int | None, expect: tuple[str, ...], as_json: bool
) -> int:
    """Test each SUBJECT, a component, against the laws that its kind must keep; exit status 1 if one is broken.

    A SUBJECT is a name that bfn plugins lists, or module:attribute or path/file.py:attribute, where the attribute is an
    instance, or a class or factory that needs no arguments.
    """
    expected = _expectations(expect)
    # By default, Hypothesis stores its database in the current folder.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "bfn-check-hypothesis"))
    from bfn_toolkit.registry.registry import default_registry
    from bfn_toolkit.storage.files import to_json
    from bfn_toolkit.testing.kit import verdicts
    from bfn_toolkit.testing.subjects import find_subjects

    found = [(name, subject) for name in subjects for subject in find_subjects(name, default_registry())]
    report, passed = [], True
    for name, subject in found:
        lines = list(verdicts(subject, laws=laws, examples=examples, expected=expected))
        passed = passed and all(line.passed for line in lines)
        report.append(
            {
                "subject": name,
                "instance": repr(subject),
                "laws": [
                    {
                        "law": v.law.name,
                        "verdict": v.verdict,
                        "figure": v.figure,
                        "fault": v.fault and str(v.fault),
                        "reason": v.reason,
                    }
                    for v in lines
                ],
            }
        )
        if not as_json:
            verdicts_table(repr(subject), lines)
    if as_json:
        echo(to_json({"passed": passed, "subjects": report}))
    return 0 if passed else 1


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  bfn new-plugin ring --kind family
  bfn new-plugin my-net --kind network --out ~/projects/my-net""",
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["network", "family", "dataset", "sampler"]),
    required=True,
    help="Kind of component that the plugin adds.",
)
@click.option("--out", type=PATH, help="Folder to make  [default: bfn-NAME]")
@click.option("--force", is_flag=True, help="Write into a folder that is not empty; other files are left alone.")
def new_plugin(name: str, kind: str, out: Path | None, force: bool) -> None:
    """Write a working package for a new plugin NAME, with its tests and its entry point."""
    from bfn_toolkit.registry.registry import default_registry
    from bfn_toolkit.registry.scaffold import new_plugin as write

    folder = out or Path(f"bfn-{name}")
    for path in write(name, kind, folder, default_registry(), force=force):
        echo(str(path))
    place, with_tests = shlex.quote(str(folder)), shlex.quote(f"{folder}[test]")
    run = f"runs/{name}"
    use = "bfn train" if kind == "sampler" else f"bfn train --{kind} {name}"
    lines = [f"pip install -e {with_tests}", f"bfn check {name}", f"pytest {place}", f"{use} --out {run}"]
    if kind == "sampler":
        lines.append(f"bfn sample {run} --sampler {name} --out {run}/{name}.csv")
    say("\n  ".join(["next:", *lines]))
