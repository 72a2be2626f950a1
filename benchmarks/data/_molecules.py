"""Scores of molecules in space, in an environment that has RDKit: ``... _molecules TRAINING.xyz FILE.xyz...``.

RDKit tells the bonds of each set of atoms from their distances, and their orders from the valences.  A molecule is
right if it is of one piece, and all its atoms have their valences without charges or radicals.  The last line of output
is JSON: for each file the share of right molecules, of different ones among the right ones, and of those that are in no
training row among the different ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rdkit import Chem, RDLogger
from rdkit.Chem import rdDetermineBonds

TRIES = 1000  # assignments of bond orders; those of a molecule that is none are without number


def blocks(path: str) -> Iterator[str]:
    """The molecules of an .xyz file."""
    lines = Path(path).read_text().splitlines()
    while lines:
        size = int(lines[0]) + 2
        yield "\n".join(lines[:size]) + "\n"
        del lines[:size]


def canonical(block: str) -> str | None:
    """Canonical SMILES of a molecule; None if it is not right."""
    molecule = Chem.MolFromXYZBlock(block)
    if molecule is None:
        return None
    try:
        rdDetermineBonds.DetermineConnectivity(molecule)
        if len(Chem.GetMolFrags(molecule)) > 1:
            return None
        options = {"charge": 0, "allowChargedFragments": False, "embedChiral": False, "maxIterations": TRIES}
        rdDetermineBonds.DetermineBondOrders(molecule, **options)
        Chem.SanitizeMol(molecule)
        if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
            return None
        return str(Chem.MolToSmiles(Chem.RemoveHs(molecule)))
    except (ValueError, RuntimeError):
        return None


def main() -> None:
    RDLogger.DisableLog("rdApp.*")
    training, *files = sys.argv[1:]
    known, scores = set(map(canonical, blocks(training))), {}
    for file in files:
        found = [canonical(block) for block in blocks(file)]
        right = [smiles for smiles in found if smiles]
        different = set(right)
        scores[file] = {
            "right bonds and valences": len(right) / len(found),
            "different, of these": len(different) / max(1, len(right)),
            "new, of these": len(different - known) / max(1, len(different)),
        }
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
