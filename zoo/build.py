"""``python zoo/build.py [NAME...]``: trains the models of the zoo by their recipes, and exports them with their cards.

Data and runs are kept in ``zoo/build``: a model whose run is complete is only exported again.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bfn_toolkit import Run
from bfn_toolkit.runs.records import read_evaluation
from bfn_toolkit.sharing.export import export_run
from bfn_toolkit.sharing.zoo import ZooModel

HERE = Path(__file__).parent
BUILD, RECIPES, MODELS = HERE / "build", HERE / "recipes", HERE / "bfn_zoo"
PAGE = HERE.parent / "docs" / "how-to" / "zoo.md"
PENGUINS = "palmerpenguins==0.1.6"
LICENSE = "mit"


def kjv(path: Path) -> None:
    """The King James Version without the numbers of its verses, as Debian's package bible-kjv prints it."""
    command = ["bible", "-f", "gen1:1-rev22:21"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    path.write_text(re.sub(r"(?m)^\S+:\d+ ", "", text))


def words(path: Path) -> None:
    """The words of the King James Version, in small letters, without the s of a genitive."""
    text = source("kjv.txt").read_text().lower().replace("'s", "")
    path.write_text("\n".join(sorted(set(re.findall(r"[a-z]{2,}", text)))) + "\n")


def penguins(path: Path) -> None:
    """The table in the wheel of palmerpenguins."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(path.parent), PENGUINS]
    subprocess.run(command, check=True)
    (wheel,) = path.parent.glob("palmerpenguins-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path.write_bytes(archive.read("palmerpenguins/data/penguins.csv"))


def wine(path: Path) -> None:
    """The table in scikit-learn, with the names of the columns and of the cultivars."""
    from sklearn.datasets import load_wine

    data = load_wine()
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*data.feature_names, "cultivar"])
        for row, kind in zip(data.data, data.target, strict=True):
            table.writerow([*(f"{value:g}" for value in row), data.target_names[kind]])


SOURCES: Mapping[str, Callable[[Path], None]] = {
    "kjv.txt": kjv,
    "words.txt": words,
    "penguins.csv": penguins,
    "wine.csv": wine,
}


def source(name: str) -> Path:
    """A file of data, which is made once, or was put there by hand."""
    path = BUILD / "data" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        SOURCES[name](path)
    return path


def flat(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers of an evaluation by dotted names."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def filled(text: str, numbers: Mapping[str, Any]) -> str:
    """A text with the numbers of an evaluation in it, such as {samples.w1:.3f}."""
    return re.sub(r"\{([\w.]+):([^}]+)\}", lambda found: format(numbers[found[1]], found[2]), text)


def build(name: str, card: Mapping[str, Any]) -> None:
    """Trains a model, unless its run is complete, and exports it with its card."""
    recipe, run = RECIPES / f"{name}.toml", BUILD / "runs" / name
    path = tomllib.loads(recipe.read_text())["dataset"].get("path", "")
    if path.startswith("data/"):
        source(path.removeprefix("data/"))
    if not (run / "evaluation.json").exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        command = ["train", "--config", str(recipe.resolve()), "--out", f"runs/{name}", "--force"]
        with run.with_suffix(".log").open("w") as log:
            subprocess.run([sys.executable, "-m", "bfn_toolkit", *command], cwd=BUILD, check=True, stderr=log)
    numbers = dict(flat(read_evaluation(run) or {}))
    took = re.search(r"(?m)^done +(.* steps in [\d:]+)", run.with_suffix(".log").read_text())
    assert took is not None
    opened = Run.open(run)
    fields = {
        "name": f"zoo:{name}",
        "license": LICENSE,
        "command": f"bfn train --config zoo/recipes/{name}.toml",
        "experiment": (opened.text or "").replace(f"{BUILD.resolve()}/", ""),
        **{key: filled(text, numbers) for key, text in card.items()},
    }
    fields["text"] += f"\n\nTraining took {took[1]} (minutes and seconds) on one thread of a busy CPU."
    export_run(opened, MODELS / name, card=fields, force=True)
    print(MODELS / name)


def rows_of_page() -> list[str]:
    """The models as rows of the table in the documentation."""
    found = (ZooModel.of(f"zoo:{folder.parent.name}", folder.parent) for folder in sorted(MODELS.glob("*/config.json")))
    return [f"| `{m.name}` | {m.summary} | {m.parameters:,} | {m.quality} | {m.data_license} |\n" for m in found]


def main() -> None:
    """Builds the models that are named, or all, and lists them in the documentation."""
    cards = tomllib.loads((HERE / "cards.toml").read_text())
    for name in sys.argv[1:] or cards:
        if name not in cards:
            raise SystemExit(f"there is no model {name} in cards.toml; there are {', '.join(cards)}")
        build(name, cards[name])
    rows = "".join(rows_of_page())
    PAGE.write_text(re.sub(r"(\| `zoo:.*\n)+", lambda _: rows, PAGE.read_text()))


if __name__ == "__main__":
    main()
