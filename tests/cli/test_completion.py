"""Words that a shell completes, and what the command line does without torch."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from bfn_toolkit.cli import bfn, main


def completions(line: str) -> list[str]:
    """The words that a shell offers at the end of a line; a kind in angle brackets where it looks for files itself."""
    *words, last = line.split(" ")
    shell = BashComplete(bfn, {}, "bfn", "_BFN_COMPLETE")
    items = shell.get_completions(words[1:], last)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/001", "runs/002", "runs/notes", "data"):
        Path(name).mkdir(parents=True)
    for name in ("runs/001", "runs/002"):
        Path(name, "experiment.toml").touch()
    Path("mine.toml").write_text('network = "mlp"\n')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bfn ru", ["runs"]),
        ("bfn checkpoint v", ["verify"]),
        ("bfn train --dry", ["--dry-run"]),
        ("bfn train --training.sch", ["--training.scheduler", "--training.scheduler_options"]),
        ("bfn train --training.scheduler linear --training.sch", ["--training.scheduler_options"]),
        ("bfn train --batch", ["--batch-size"]),
        ("bfn train --network un", ["unet", "unet-improved", "unet-vdm"]),
        ("bfn train --network siren --network.b", ["--network.bandwidth", "--network.bias"]),
        ("bfn train --network.b", ["--network.bandwidth", "--network.bias"]),
        ("bfn train --config mine.toml --network.b", []),
        ("bfn train photos --preset text8 --network.he", ["--network.heads"]),
        ("bfn train --family.head no", ["noise", "normal-mixture"]),
        ("bfn train --family.head noise --family.head.", ["--family.head.clip", "--family.head.t_min"]),
        ("bfn train --loss.times l", ["log-normal"]),
        ("bfn train --dataset images --dataset.pixels ", ["bins", "classes"]),
        ("bfn train --dataset images --dataset.flip ", ["false", "true"]),
        ("bfn train --dataset images --dataset.path ", ["<file>"]),
        ("bfn train --device c", ["cpu", "cuda"]),
        ("bfn train --training.device c", ["cpu", "cuda"]),
        ("bfn train --nothing.of.this ", []),
        ("bfn train --as tab", ["table"]),
        ("bfn train --preset cifar10-1", ["cifar10-16", "cifar10-16-small"]),
        ("bfn train ", ["<file>"]),
        ("bfn train --config ", ["<file>"]),
        ("bfn presets mn", ["mnist", "mnist-small"]),
        ("bfn plugins toy", ["toy2d"]),
        ("bfn check toy", ["toy2d"]),
        ("bfn sample ", ["runs/001", "runs/002"]),
        ("bfn report --co", ["--compare"]),
        ("bfn report runs/001 --compare runs/", ["runs/001", "runs/002"]),
        ("bfn train --resume runs/", ["runs/001", "runs/002"]),
        ("bfn sample ./runs/001", ["./runs/001"]),
        ("bfn sample nowhere/", ["<dir>"]),
        ("bfn sample x --sampler ode-", ["ode-1", "ode-2", "ode-midpoint"]),
        ("bfn sample x --device c", ["cpu", "cuda"]),
        ("bfn import-checkpoint x.pt --network.wi", ["--network.width"]),
    ],
)
def test_words_are_completed(line: str, expected: Sequence[str]) -> None:
    assert completions(line) == expected


def test_models_of_a_zoo_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = types.SimpleNamespace(name="theirs", models={"ring": Path(), "rim": Path(), "disk": Path()})
    monkeypatch.setattr("bfn_toolkit.sharing.zoo.zoos", lambda: {"theirs": zoo})
    for command in ("sample", "score", "zoo"):
        assert completions(f"bfn {command} theirs:ri") == ["theirs:rim", "theirs:ring"]


def test_every_field_of_the_experiment_is_offered() -> None:
    from bfn_toolkit import Experiment

    experiment = Experiment.from_mapping({}, base="default")
    offered = {
        key
        for table in ("dataset", "family", "network", "loss", "training", "seed")
        for key in completions(f"bfn train --{table}")
    }
    keys = {f"--{key}" for key, _, _ in experiment.options() if not key.startswith("family.head.")}
    assert keys - offered == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_of_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_BFN_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_an_error_in_a_completion_does_not_disturb_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_BFN_COMPLETE", "bash_complete")  # without the variables that the shell sets
    assert main([]) != 0
    assert capsys.readouterr() == ("", "")


def test_lists_and_completions_do_not_import_torch() -> None:
    program = """if True:
        import os, sys
        from bfn_toolkit.cli import main
        for line in ("--help", "--version", "presets", "plugins", "plugins --json", "runs runs", "train --help"):
            try:
                main(line.split())
            except SystemExit:
                pass
            assert "torch" not in sys.modules, line
        os.environ |= {"_BFN_COMPLETE": "bash_complete", "COMP_CWORD": "2", "COMP_WORDS": "bfn train --network."}
        main([])
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--network.width" in done.stdout
