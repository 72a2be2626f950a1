"""Numbers as people write them: 1234.5, "1.234,5", "1 234", 1'234, $5, 12 %, -1.5e-3; and what stands for a gap.

All cells of a column are read in one way.  Where they could be read in two, the other one is told too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

NAMES = {"na", "n/a", "n.a.", "#n/a", "#na", "nan", "-nan", "null", "<na>", "nat", "?"}
WORDS = NAMES | {"none", "nil", "-", "--", "\N{EN DASH}", "\N{EM DASH}", ".", "..", "missing", "unknown"}
WORDS |= {"n/d", "n.d.", "not available", "#value!", "#div/0!", "#ref!", "#num!", "#name?"}
DIGITS = frozenset("0123456789")
MOST_DECIMALS = 9  # of numbers that are written with fixed decimals
PLAIN = re.compile(r"(?a)[+-]?(\d+\.?(\d*)|\.(\d+))([eE][+-]?\d+)?")
_MONEY = r"[$\u20ac\u00a3\u00a5\u20b9]"
_AFFIXED = re.compile(
    rf"(?a)([+\u2212-]?)({_MONEY}[ \u00a0]?)?([+\u2212-]?)"
    rf"((?:\d(?:[\d.,' \u00a0\u202f]*[\d.,])?|[.,]\d+)(?:[eE][+-]?\d+)?)([ \u00a0]?(?:[%\u2030]|{_MONEY}))?"
)
_UNIT = re.compile(r"(?a)([^\W\d_]{1,4} )?[+-]?\d[\d.,]*( ?[^\W\d_][^\d]{0,9})?")
_STRANGE = re.compile(  # '1.5', 0x1F, 1D5, 1_000, 1,10,100, 5-, (5)
    r"(?a)'[\d.,+-]+'|0[xX][\da-fA-F]+|[+-]?[\d.]+[dD][+-]?\d+|\d+(_\d+)+|\d{1,2}(,\d\d)+,\d{3}(\.\d+)?|[\d.,]+-|\([\d.,]+\)"
)
DECIMAL_COMMA = r"^\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),(\d{1,2}|\d{4,})\s*$"
DECIMAL_POINT = r"^\s*[+-]?(\d*\.(\d{1,2}|\d{4,})|0*\.\d+|\d{4,}\.\d+)\s*$"


@attrs.frozen(eq=False)
class Numbers:
    """Numbers of texts.

    Arguments:
        values: The numbers, (N,).
        decimals: Number of decimals; -1 for the shortest text that gives the double.
        form: Way of writing them, such as "#.##0,0"; "" for plain numbers.
        otherwise: Another form that all texts have too, as which they are other numbers; "" for none.
    """

    values: Floats
    decimals: int
    form: str = ""
    otherwise: str = ""


def gaps(distinct: Sequence[str], words: Collection[str], more: Collection[str] = ()) -> set[str]:
    """Different texts of a column that are gaps: empty ones, words that stand for a gap, and more of the user's.

    "NA" is none where the others have two capital letters too, as codes of countries.
    """
    others = [text for text in distinct if text[-1:] not in DIGITS]  # a quick choice among many numbers
    found = {text for text in others if not (word := text.strip().lower()) or word in words}
    found |= set(more).intersection(distinct) if more else set()
    if "NA" in found and "NA" not in more:
        others = [text for text in distinct if text not in found]
        if len(others) > 5 and all(re.fullmatch("[A-Z]{2}", text) for text in others):
            found.remove("NA")
    return found


def is_number(text: str) -> bool:
    """Whether a text is a number in some form."""
    text = text.strip()
    affixed = _AFFIXED.fullmatch(text)
    return PLAIN.fullmatch(text) is not None or (affixed is not None and bool(_ways([affixed[4]])))


def affixes(text: str) -> tuple[str | None, str | None]:
    """Signs before and after a number, such as "$" and "%"."""
    found = _AFFIXED.fullmatch(text.strip())
    return (found[2], found[5]) if found else (None, None)


def unread(values: Sequence[str]) -> tuple[str, str]:
    """Form of numbers that all have the same unit, such as "0.0 kg"; else a text that may be a number, but is not read.

    Returns:
        The form and the text; "" for none.
    """
    found = [_UNIT.fullmatch(text.strip()) for text in values]
    pairs = {(match[1] or "", match[2] or "") for match in found if match}
    if len(values) > 1 and all(found) and len(pairs) == 1 and pairs != {("", "")}:
        before, after = pairs.pop()
        told = numbers([text.strip().removeprefix(before).removesuffix(after) for text in values])
        return (f"{before}{told.form or '0' + '.0' * (told.decimals != 0)}{after}" if told else ""), ""
    return "", next((text for text in values if _STRANGE.fullmatch(text.strip())), "")


def numbers(values: Sequence[str], comma: bool | None = False) -> Numbers | None:
    """Numbers of the texts of a column; None if they are not numbers of one form.

    Arguments:
        values: The different texts, without gaps.
        comma: Whether the file has decimal commas, so that a point may separate thousands; None if it may have.
    """
    return _plain(values, comma) or _affixed(values, comma)


def _plain(values: Sequence[str], comma: bool | None) -> Numbers | None:
    together = "".join(values)
    if not together.isascii() or "_" in together:
        return None
    try:
        found = np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:
        return None
    if comma is not False and "." in together and _fits([text.strip().lstrip("+-") for text in values], ".", ","):
        return None
    if "e" in together or "E" in together or "n" in together:  # 1e-05, inf
        return Numbers(found, -1)
    texts = [text.strip() for text in values]
    digits = [len(text) - 1 - place if (place := text.rfind(".")) >= 0 else 0 for text in texts]
    return Numbers(found, *form_of(digits, "", ".", "", ""))


def _affixed(values: Sequence[str], comma: bool | None) -> Numbers | None:
    """Numbers with a decimal comma, separators of thousands, a percent sign or that of a currency."""
    found = [_AFFIXED.fullmatch(text.strip()) for text in values]
    matches = [match for match in found if match]
    if not values or len(matches) < len(values) or len({(match[2], match[5]) for match in matches}) > 1:
        return None
    before, after = matches[0][2] or "", matches[0][5] or ""
    bodies = [match[4] for match in matches]
    ways = sorted(_ways(bodies), key=lambda way: (way[1] == ".") == bool(comma))
    if not ways:
        return None
    signs = [-1.0 if "-" in (sign := match[1] + match[3]) or "\u2212" in sign else 1.0 for match in matches]
    read = [[_body(body, *way) for body in bodies] for way in ways]
    forms = [
        form_of([_digits(body) for body in texts], *way, before, after) for texts, way in zip(read, ways, strict=True)
    ]
    values_of = [np.array([sign * float(text) for sign, text in zip(signs, texts, strict=True)]) for texts in read]
    other = next((i for i in range(1, len(ways)) if not np.array_equal(values_of[i], values_of[0])), 0)
    is_settled = comma and ways[0] == ("", ",")  # 1,234 where other columns have decimal commas
    otherwise = "" if not other or is_settled else forms[other][1] or "0." + "0" * forms[other][0]
    return Numbers(values_of[0], *forms[0], otherwise)


def _body(text: str, group: str, point: str) -> str:
    return (text.replace(group, "") if group else text).replace(point, ".")


def _digits(text: str) -> int:
    return MOST_DECIMALS + 1 if "e" in text.lower() else len(text.partition(".")[2])


def form_of(digits: Sequence[int], group: str, point: str, before: str, after: str) -> tuple[int, str]:
    """Decimals and form of numbers that have these numbers of decimals."""
    least, most = min(digits), max(digits)
    decimals = most if most <= MOST_DECIMALS else -1
    if most > MOST_DECIMALS:
        least, most = min(least, 1), max(min(least, 1), 1)
    plain = not (group or before or after) and point == "."
    if plain and (least == most or (decimals < 0 and least == 1)):
        return decimals, ""
    whole = f"#{group}##0" if group else "0"
    fraction = point + "0" * least + "#" * (most - least) if most else ""
    return decimals, f"{before}{whole}{fraction}{after}"


def _ways(bodies: Sequence[str]) -> list[tuple[str, str]]:
    """Signs for thousands and decimals with which all texts are numbers, those of a decimal point first."""
    ways = [("", "."), (",", "."), ("", ","), (".", ",")]
    ways += [(group, point) for point in ".," for group in ("'", " ", "\u00a0", "\u202f")]
    return [way for way in sorted(ways, key=lambda way: way[1] == ",") if _fits(bodies, *way)]


def _fits(bodies: Sequence[str], group: str, point: str) -> bool:
    """Whether all are numbers with these signs, and one has that for thousands."""
    whole = rf"([1-9]\d{{0,2}}({re.escape(group)}\d{{3}})+|\d+)" if group else r"\d*"
    if group and not any(group in body for body in bodies):
        return False
    pattern = re.compile(rf"(?a){whole}({re.escape(point)}\d*)?([eE][+-]?\d+)?")
    return all(pattern.fullmatch(body) for body in bodies)
