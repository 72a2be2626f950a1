"""Scores of SMILES, in an environment that has RDKit: ``python -m benchmarks.data._smiles TRAINING FILE...``.

Each file has a SMILES a line.  The last line of output is JSON: for each file the share of valid strings, of different
molecules among the valid ones, and of those that are in no training row among the different ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rdkit import Chem, RDLogger


def canonical(path: str) -> list[str | None]:
    """Canonical SMILES of each line; None if it is not a molecule."""
    molecules = map(Chem.MolFromSmiles, Path(path).read_text().splitlines())
    return [None if molecule is None else Chem.MolToSmiles(molecule) for molecule in molecules]


def main() -> None:
    RDLogger.DisableLog("rdApp.*")
    training, *files = sys.argv[1:]
    known, scores = set(canonical(training)), {}
    for file in files:
        found = canonical(file)
        valid = [smiles for smiles in found if smiles]
        unique = set(valid)
        new = len(unique - known)
        scores[file] = {
            "valid": len(valid) / len(found),
            "unique": len(unique) / max(1, len(valid)),
            "new": new / max(1, len(unique)),
            "all three": new / len(found),
            "strings": len(found),
        }
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
