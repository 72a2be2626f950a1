"""Tables of the benchmark: training and test rows, one file each, made once from packages or by a generator.

Two thirds of the rows train; an empty cell is a gap.  The packages are palmerpenguins (CC0), islp (BSD) and Debian's
r-cran-modeldata (MIT); of the larger ones some rows are drawn.

``python -m benchmarks.tables.data FOLDER`` writes the whole tables of the packages, in an environment that has them.
"""

from __future__ import annotations

import csv
import json
import lzma
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Texts: TypeAlias = "dict[str, list[str]]"

PACKAGES = ("palmerpenguins==0.1.6", "islp==0.6.0", "rdata==1.1.0", "xarray==2026.9.0", "pandas==3.1.1")
DEBIAN = "r-cran-modeldata"
SEED, MOST_ROWS = 0, 4500

# The target of each table, and what is hard in it.
TABLES = {
    "penguins": ("species", "few rows"),
    "credit": ("Status", "gaps, round values, heavy tails"),
    "wage": ("wage", "exact values that repeat"),
    "attrition": ("Attrition", "31 columns, years within years"),
    "sacramento": ("price", "37 cities and 68 postal codes, and their places"),
    "concrete": ("compressive_strength", "zeros, mixtures that repeat"),
    "calls": ("churn", "51 states, zeros, charges that are multiples of minutes"),
    "contracts": ("churn", "booleans, services that need another one"),
    "spiral": ("arm", "numbers on curves"),
    "claims": ("amount", "50 levels, mostly zeros"),
}
TARGETS = {name: target for name, (target, _) in TABLES.items()}
MODELDATA = {
    "credit_data": "credit",
    "attrition": "attrition",
    "Sacramento": "sacramento",
    "concrete": "concrete",
    "mlc_churn": "calls",
    "wa_churn": "contracts",
}
BOOLEANS = {"contracts": ("female", "senior_citizen", "partner", "dependents", "phone_service", "paperless_billing")}
LEFT_OUT = {"wage": ("region", "logwage")}  # a constant, and the target


def spiral(n: int = 3000) -> Texts:
    """Two arms of a spiral, their height, a wave along them, and whether a point is far out."""
    generator = np.random.default_rng(SEED)
    arm, turn = generator.integers(0, 2, n), 3 * np.pi * np.sqrt(generator.uniform(0.05, 1, n))
    noise = generator.normal(0, 0.15, (4, n))
    x, y = (turn * f(turn + np.pi * arm) for f in (np.cos, np.sin))
    height = (x**2 - y**2) / 10
    columns = {"x": x, "y": y, "height": height, "wave": 3 * np.sin(2 * turn)}
    found = {
        name: [f"{v:.4f}" for v in values + part] for (name, values), part in zip(columns.items(), noise, strict=True)
    }
    return {**found, "far": ["True" if v > 6 else "False" for v in turn], "arm": [("left", "right")[a] for a in arm]}


def claims(n: int = 4500) -> Texts:
    """Policies in 50 regions of unequal size, most of which had no claim."""
    generator = np.random.default_rng(SEED)
    share = 1 / np.arange(1, 51)
    region = generator.choice(50, n, p=share / share.sum())
    risk = generator.normal(0, 0.6, 50)[region]
    age = generator.integers(18, 90, n)
    years = np.minimum(generator.geometric(0.12, n) - 1, age - 18)
    rate = np.exp(-1.5 + risk + 0.8 * (age < 25) - 0.05 * years)
    count = generator.poisson(rate)
    amount = np.where(count > 0, count * np.exp(generator.normal(6.5 + 0.5 * risk, 0.9)), 0.0)
    income, reported = np.exp(10 + 0.01 * age + generator.normal(0, 0.5, n)), generator.uniform(size=n) < 0.9
    return {
        "region": [f"R{r:02d}" for r in region],
        "age": [str(v) for v in age],
        "years_insured": [str(v) for v in years],
        "deductible": [str(v) for v in generator.choice([0, 250, 500, 1000], n, p=[0.1, 0.2, 0.5, 0.2])],
        "income": [f"{v:.0f}" if known else "" for v, known in zip(income, reported, strict=True)],
        "claims": [str(v) for v in count],
        "amount": [f"{v:.2f}" if v else "0" for v in amount],
    }


GENERATORS: dict[str, Callable[[], Texts]] = {"spiral": spiral, "claims": claims}


def cells(column: Any, boolean: bool) -> list[str]:
    """Texts of a column of pandas: whole numbers without a point, gaps empty."""
    known = column.dropna()
    whole = column.dtype.kind in "fi" and not (known % 1).any()
    spelling: Callable[[Any], str] = (lambda v: str(bool(v))) if boolean else (lambda v: str(int(v))) if whole else str
    return ["" if gap else spelling(value) for value, gap in zip(column, column.isna(), strict=True)]


def read(path: Path) -> Texts:
    """Texts of the cells of a CSV file, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    columns = zip(*lines, strict=True) if lines else ((),) * len(header)
    return {name: list(column) for name, column in zip(header, columns, strict=True)}


def written(path: Path, table: Texts) -> None:
    """Writes a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(table)
        lines.writerows(zip(*table.values(), strict=True))


def files(name: str, folder: Path, python: Callable[[], Path]) -> tuple[Path, Path]:
    """Files of the training and the test rows of a table in a folder, made if they are not there.

    Arguments:
        name: Table.
        folder: Where they are kept.
        python: Finds a Python that has the packages.
    """
    paths = folder / f"{name}-train.csv", folder / f"{name}-test.csv"
    if not all(path.exists() for path in paths):
        if name in GENERATORS:
            table = GENERATORS[name]()
        else:
            if not (folder / "whole" / "ready").exists():
                subprocess.run([python(), "-m", __name__, folder / "whole"], check=True, stdout=subprocess.DEVNULL)
                (folder / "whole" / "ready").touch()
            table = read(folder / "whole" / f"{name}.csv")
        order = np.random.default_rng(SEED).permutation(len(table[TARGETS[name]]))[:MOST_ROWS]
        third = len(order) // 3
        for path, rows in zip(paths, (order[third:], order[:third]), strict=True):
            written(path, {key: [column[row] for row in rows] for key, column in table.items()})
    return paths


def unpacked(folder: Path) -> Path:
    """The R data of Debian's package."""
    (folder / "deb").mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", DEBIAN], cwd=folder / "deb", check=True, stdout=subprocess.DEVNULL)
    (package,) = (folder / "deb").glob("*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "deb" / "files"], check=True)
    (index,) = (folder / "deb" / "files").glob("usr/lib/R/site-library/*/data/Rdata.rdx")
    return index


def r_tables(index: Path, names: Sequence[str]) -> dict[str, Any]:
    """Data frames of a lazy-load database of R: an index of places in a file of compressed objects."""
    import rdata  # type: ignore[import-not-found]

    def read(content: bytes) -> Any:
        return rdata.conversion.convert(rdata.parser.parse_data(content))

    places = {str(name): place for name, place in read(index.read_bytes())["variables"].items()}
    blob, found = index.with_suffix(".rdb").read_bytes(), {}
    for name in names:
        start, length = places[name]
        record = blob[start : start + length]
        assert record[4:5] == b"Z"  # four bytes of length, and the letter of xz
        content = lzma.decompress(record[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
        found[name] = read(content)
    return found


def main() -> None:
    """Writes the tables of the packages."""
    import warnings

    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    for package, file, name in (("palmerpenguins", "penguins.csv", "penguins"), ("ISLP", "Wage.csv", "wage")):
        (path,) = (p / package / "data" / file for p in map(Path, sys.path) if (p / package / "data" / file).exists())
        table = {key: ["" if cell == "NA" else cell for cell in column] for key, column in read(path).items()}
        written(folder / f"{name}.csv", {key: table[key] for key in table if key not in LEFT_OUT.get(name, ())})
    for source_name, frame in r_tables(unpacked(folder), list(MODELDATA)).items():
        name = MODELDATA[source_name]
        table = {key: cells(frame[key], key in BOOLEANS.get(name, ())) for key in frame}
        written(folder / f"{name}.csv", table)
    print(json.dumps(sorted(path.stem for path in folder.glob("*.csv"))))


if __name__ == "__main__":
    main()
