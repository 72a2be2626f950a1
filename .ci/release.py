"""Checks that a tag is the version that stands everywhere, and prints the notes: python .ci/release.py v0.2.0"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = {
    "pyproject.toml": r'^version = "(.+)"$',
    "zoo/pyproject.toml": r'^version = "(.+)"$',
    "CITATION.cff": r"^version: (.+)$",
    "recipe/recipe.yaml": r'^  version: "(.+)"$',
    "CHANGELOG.md": r"^## (\d\S*)",
}


def notes(tag: str, root: Path = ROOT) -> str:
    """The section of the changelog for a tag such as v0.2.0; SystemExit names the places with another version."""
    version = tag.removeprefix("v")
    if not re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag):
        sys.exit(f"{tag} is not a tag of a release; write it as v0.2.0 or v0.2.0rc1")
    texts = {place: (root / place).read_text(encoding="utf-8") for place in PLACES}
    found = {place: re.search(PLACES[place], text, re.MULTILINE) for place, text in texts.items()}
    others = {
        place: match[1] if match else "none" for place, match in found.items() if not match or match[1] != version
    }
    if others:
        sys.exit(f"{tag} does not fit the versions of: {', '.join(f'{place} ({v})' for place, v in others.items())}")
    sections = re.split(r"^## ", texts["CHANGELOG.md"], flags=re.MULTILINE)
    (section,) = [text for text in sections if re.match(rf"{re.escape(version)}\b", text)]
    return section.partition("\n")[2].strip()


if __name__ == "__main__":
    print(notes(sys.argv[1]))
