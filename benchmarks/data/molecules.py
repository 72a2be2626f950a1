"""``python -m benchmarks.data.molecules FILE CONFORMERS``: small molecules in space, embedded by rdkit."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any


def smiles() -> list[str]:
    """Chains and stars of up to four atoms of C, N and O, of which two that are not carbon never touch."""
    chains = ["".join(atoms) for n in range(1, 5) for atoms in itertools.product("CNO", repeat=n)]
    chains = [chain for chain in chains if "C" in chain or len(chain) == 1]
    chains = [chain for chain in chains if all("C" in pair for pair in itertools.pairwise(chain))]
    stars = [f"{a}{b}({c}){d}" for a, c, d in itertools.product("CNO", repeat=3) for b in "C"] + ["CN(C)C"]
    return chains + stars


def main() -> None:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    path, conformers = Path(sys.argv[1]), int(sys.argv[2])
    tools: Any = AllChem
    lines: list[str] = []
    names = sorted({Chem.MolToSmiles(Chem.MolFromSmiles(text)) for text in smiles()})
    for name in names:
        molecule = Chem.AddHs(Chem.MolFromSmiles(name))
        tools.EmbedMultipleConfs(molecule, conformers, randomSeed=1)
        tools.MMFFOptimizeMoleculeConfs(molecule)
        for conformer in molecule.GetConformers():
            lines += [str(molecule.GetNumAtoms()), name]
            for atom, place in zip(molecule.GetAtoms(), conformer.GetPositions().tolist(), strict=True):
                lines.append(" ".join([atom.GetSymbol(), *(f"{v:.5f}" for v in place)]))
    path.write_text("\n".join(lines) + "\n")
    print(json.dumps({"molecules": len(names), "rows": len(names) * conformers}))


if __name__ == "__main__":
    main()
