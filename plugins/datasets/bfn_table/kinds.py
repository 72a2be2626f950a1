"""Tells by its texts what a column holds: numbers, categories, dates, names of the rows; and what stands for a gap.

Nothing is guessed silently.  Where a text could mean two things, a warning says which one is taken, and where a column
cannot be told, an error names the line and what to write.

A gap is an empty cell, one of :data:`WORDS` where the other cells are numbers, dates or times, because there it can be
nothing else, or one of :data:`NAMES` in a column of names.  There "None", "-" and "missing" may be names, so they stay.
"NA" is a name where the others have two capital letters too, as codes of countries.
"""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import product
from typing import Any, NoReturn

import attrs
import numpy as np

from bfn_files.numbers import (
    NAMES,
    PLAIN,
    WORDS,
    Floats,
    Numbers,
    affixes,
    form_of,
    gaps as gaps_of,
    is_number,
    numbers as numbers_in,
    unread,
)
from bfn_files.tables import Texts, shown
from bfn_toolkit import BFNWarning, ConfigError, DataError, did_you_mean

SENTINELS = {99.0, 999.0, 9999.0, 99999.0, 999999.0}  # numbers that often stand for a gap
GAPS = WORDS | {""}
KINDS = ("number", "integer", "category", "boolean", "date", "datetime", "time", "identifier", "text")
LEFT_OUT = ("identifier", "text")
FEW = 10  # largest number of different texts that tell nothing about a column
LONG = 40  # mean length of a text, in characters, that is no name
NEARLY = 0.9  # share of different texts in a column that tells rows apart
TRIED = 100  # texts by which the form of dates is told
EXACT = 2.0**53  # largest integer up to which doubles hold all
EPOCH, DAY = datetime.datetime(1970, 1, 1), datetime.date(1970, 1, 1).toordinal()

_DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y"),
    *("%d-%b-%y", "%b %d %Y", "%B %d %Y", "%Y-%m"),
)
_TIMES = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p")
_FORM = re.compile(
    r"(?P<before>[^0#]*)(?:#(?P<group>.)##)?0(?:(?P<point>[.,])(?P<least>0*)(?P<more>#*))?(?P<after>[^0#]*)"
)
_IDS = re.compile(r"(?i:(.*[ _.-])?(id|ids|uuid|guid|index|key|rowid|row|rownames))|.*[a-z](Id|ID)")


@attrs.frozen(eq=False)
class Told:
    """Kind of a column and the way it is written.

    Arguments:
        name: Name in the header.
        kind: "number", "integer", "category", "boolean", "date", "datetime", "time" or "constant".
        gaps: Texts of the column that stand for a gap, the commonest first.
        decimals: Decimals of numbers, or of seconds; -1 for the shortest text that gives the double.
        form: Way of writing numbers, dates and times, as of :func:`parsed`.
        numbers: Number of each distinct text, NaN for gaps and in a column of names: days of dates, seconds of times.
        left_out: Reason why the column is not learned; "" if it is.
    """

    name: str
    kind: str
    gaps: tuple[str, ...] = ()
    decimals: int = -1
    form: str = ""
    numbers: Floats = attrs.field(factory=lambda: np.zeros(0))
    left_out: str = ""


# Cells and numbers


def parsed(text: str, kind: str, form: str) -> float:
    """Number of a cell: days since 1970 of a date, seconds since then of a datetime, seconds of a time of day.

    Arguments:
        text: The cell.
        kind: Kind of the column.
        form: Format as of :func:`time.strftime` for dates and times, where %-d is a number without leading zeros.  For
            numbers a pattern as in spreadsheets, such as "$#,##0.00", "0,0" or "0.0##", where # is a digit that is
            written unless it is 0; "" for plain numbers.
    Raises:
        ValueError: If the text is not of this form.
    """
    text = text.strip()
    if kind in ("date", "datetime", "time"):
        return _moment(text, kind, form)
    if form:
        found = _pattern(form)
        text = text.replace("\N{MINUS SIGN}", "-").removeprefix("+")
        sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
        text = text.removeprefix(found["before"]).removesuffix(found["after"]).removeprefix("+").strip()
        group, point = found["group"] or "", found["point"] or "."
        whole = text.partition(point)[0]
        if group and group in whole and not _is_grouped(whole, group):
            raise ValueError(text)
        if point == "," and not group and _is_grouped(whole, "."):
            raise ValueError(text)
        text = sign + text.replace(group, "").replace(point, ".")
    if not PLAIN.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _is_grouped(whole: str, group: str) -> bool:
    """Whether the digits before the decimal point are in groups of three."""
    return re.fullmatch(rf"(?a)\d{{1,3}}({re.escape(group)}\d{{3}})+", whole) is not None


def numbers_of(texts: Sequence[str], kind: str, form: str) -> Floats:
    """Numbers of cells as of :func:`parsed`, (N,); NaN for those that are not of this form."""
    numbers = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        with suppress(ValueError):
            numbers[i] = parsed(text, kind, form)
    return numbers


def written(value: float, kind: str, decimals: int, form: str) -> str:
    """Text of a number, as :func:`parsed` reads it."""
    if kind in ("date", "datetime", "time"):
        return _moment_text(value, kind, decimals, form)
    found = _pattern(form or "0")
    shortest = repr(round(float(value), decimals) if decimals >= 0 else float(value))
    fixed = decimals >= 0 and ("e" in shortest or not found["more"])  # 536870912.1054688 has 8 decimals as a double
    digits = f"{value:.{decimals}f}" if fixed else shortest
    if form:
        if "e" in digits:
            return digits.replace(".", found["point"] or ".")
        whole, _, fraction = digits.partition(".")
        least = len(found["least"] or "")
        fraction = fraction[:least].ljust(least, "0") + fraction[least:].rstrip("0")
        sign, whole = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
        if found["group"]:
            whole = f"{int(whole):,}".replace(",", found["group"])
        whole += (found["point"] or ".") + fraction if fraction else ""
        digits = f"{sign}{found['before']}{whole}{found['after']}"
    return digits if float(f"{value:.{max(decimals, 0)}f}") or decimals < 0 else digits.removeprefix("-")


@lru_cache
def _pattern(form: str) -> dict[str, str | Any]:
    found = _FORM.fullmatch(form)
    if found is None:
        raise ConfigError(f'expected a way of writing numbers such as "0.00", "0,0" or "$#,##0.00", got {form!r}')
    return found.groupdict()


def _moment(text: str, kind: str, form: str) -> float:
    if form == "%Y-%m-%d" and len(text) == 10:
        return float(datetime.date.fromisoformat(text).toordinal() - DAY)
    if not text.isascii():  # strptime reads digits of all scripts
        raise ValueError(text)
    moment = datetime.datetime.strptime(text, form.replace("%-", "%"))
    if kind == "date":
        return float(moment.toordinal() - DAY)
    if kind == "time":
        return (moment - moment.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
    return (moment - EPOCH).total_seconds()


def _moment_text(value: float, kind: str, decimals: int, form: str) -> str:
    seconds = value * 86400.0 if kind == "date" else round(value, max(decimals, 0))
    moment = EPOCH + datetime.timedelta(seconds=seconds)
    fields = {"%-d": moment.day, "%-m": moment.month, "%-H": moment.hour, "%-I": (moment.hour - 1) % 12 + 1}
    for code, number in {**fields, "%Y": f"{moment.year:04}", "%f": f"{moment.microsecond:06}"[:decimals]}.items():
        form = form.replace(code, str(number))
    return moment.strftime(form)


# Columns


def tell(
    name: str,
    texts: Texts,
    place: Callable[[int], str],
    wanted: str | None = None,
    gaps: Sequence[str] = (),
    *,
    comma: bool | None = False,
) -> Told:
    """Kind of a column by its content.

    Arguments:
        name: Name of the column.
        texts: Its cells.
        place: Place of a row in words.
        wanted: Kind that the user names, one of :data:`KINDS`; "date:%d/%m/%Y" also names the form.
        gaps: Further spellings of a gap.
        comma: Whether other columns have decimal commas, so that a point may separate thousands; None if they may.
    Raises:
        ConfigError: If the wanted kind is unknown.
        DataError: If a text is not of the kind of the others, or is infinite.
    """
    column = _Column(name, texts, place, frozenset(gaps))
    kind, _, form = (wanted or "").partition(":")
    if kind and kind not in KINDS:
        raise ConfigError(
            f"types: '{name}={wanted}': expected one of {', '.join(KINDS)}, got '{kind}'.{did_you_mean(kind, KINDS)}"
        )
    if kind in LEFT_OUT:
        return Told(name, kind, left_out=f"{kind}, as types say")
    if len(texts.distinct) == 1 and not kind:
        return Told(name, "constant")
    values = column.values(WORDS)
    if kind in ("category", "boolean"):
        return column.told(kind, NAMES)
    if kind in ("number", "integer"):
        right = (~np.isnan(numbers_of(values, kind, form))).tolist() if form else list(map(is_number, values))
        return column.numbers(kind, values, comma, form) or column.raise_at(kind, values, right)
    if kind:
        said = f"{kind} as {form}" if form else kind
        right = [_parses([text], kind, form) for text in values] if form else [False] * len(values)
        return column.moments(values, kind, form) or column.raise_at(said, values, right)
    if not values and not column.values(NAMES):
        return Told(name, "constant", left_out="only gaps")
    if values:
        if found := column.compact_dates(values) or column.numbers("", values, comma) or column.moments(values):
            return found
        column.check_mixture(values)
    names = column.values(NAMES)
    pair = {text.strip().lower() for text in names}
    if len(names) == 2 and pair in ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"}):
        return column.told("boolean", NAMES)
    return column.names()


@attrs.frozen(eq=False)
class _Column:
    name: str
    texts: Texts
    place: Callable[[int], str]
    more: frozenset[str]

    def values(self, words: set[str]) -> list[str]:
        """The different texts that are no gaps."""
        gaps = self.gaps(words)
        return [text for text in self.texts.distinct if text not in gaps] if gaps else list(self.texts.distinct)

    def gaps(self, words: set[str]) -> set[str]:
        """The different texts that are gaps."""
        return gaps_of(self.texts.distinct, words, self.more)

    def told(
        self, kind: str, words: set[str], numbers: Sequence[float] | Floats = (), decimals: int = -1, form: str = ""
    ) -> Told:
        """The column with the numbers of its texts that are no gaps."""
        distinct, counts = self.texts.distinct, self.texts.counts
        gaps = self.gaps(words)
        gap = np.array([text in gaps for text in distinct], np.bool_)
        every = np.full(len(distinct), np.nan)
        if len(numbers):
            every[~gap] = numbers
        order = sorted(np.flatnonzero(gap).tolist(), key=lambda i: -counts[i])
        return Told(self.name, kind, tuple(distinct[i] for i in order), decimals, form, every)

    def where(self, text: str) -> str:
        """Place of the first row with a text."""
        row = int(np.argmax(self.texts.index == self.texts.distinct.index(text)))
        return f"{self.place(row)}: column '{self.name}'"

    def warn(self, text: str, message: str) -> None:
        warnings.warn(f"{self.where(text)}: {message}", BFNWarning, stacklevel=2)

    def option(self, kind: str) -> str:
        return f'--types "{self.name}={kind}"'

    def numbers(self, kind: str, values: list[str], comma: bool | None, form: str = "") -> Told | None:
        """Numbers, integers, or codes that only look like numbers; None if the texts are not numbers."""
        found = _formed(values, kind, form) if form else numbers_in(values, comma)
        if found is None:
            return None
        numbers, decimals, form = found.values, found.decimals, found.form
        if np.isinf(numbers).any():
            text = values[int(np.isinf(numbers).argmax())]
            raise DataError(f"{self.where(text)}: {shown(text)} is not finite; write --gaps {text} if it is a gap")
        if found.otherwise:
            text = max(values, key=len)
            self.warn(
                text,
                f"{shown(text)} is read as {numbers[values.index(text)]:.10g}; if that is wrong, write "
                f"{self.option(f'number:{found.otherwise}')}",
            )
        self._warn_of_sentinel(values, numbers)
        whole = decimals == 0 or (decimals > 0 and bool((numbers == np.floor(numbers)).all()) and "#" not in form)
        if not kind and whole and not form:
            digits = [text.strip().lstrip("+-") for text in values]
            if any(len(text) > 1 and text[0] == "0" and text.isdigit() for text in digits):
                return self.names()
            if np.abs(numbers).max() >= EXACT:
                return self.names()
        if whole:
            if not kind and self._counts(numbers):
                return Told(
                    self.name, "identifier", left_out=f"identifier: counts the rows; {self.option('integer')} keeps it"
                )
            if not kind and self._is_id():
                return Told(
                    self.name, "identifier", left_out=f"identifier: all different; {self.option('integer')} keeps it"
                )
            form = form or ("0." + "0" * decimals if decimals else "")
            return self.told("integer" if kind != "number" else kind, WORDS, numbers, decimals, form)
        if kind == "integer":
            self.raise_at(kind, values, (numbers == np.floor(numbers)).tolist())
        return self.told("number", WORDS, numbers, decimals, form)

    def _warn_of_sentinel(self, values: list[str], numbers: Floats) -> None:
        """Says that a number such as -999 far from all others may stand for a gap."""
        order = np.argsort(numbers)
        for end, others in ((order[0], order[1:]), (order[-1], order[:-1])):
            rest = numbers[others]
            if len(rest) > 1 and abs(numbers[end]) in SENTINELS:
                distance = np.abs(numbers[end] - rest).min()
                if distance > np.ptp(rest) and self.texts.counts[self.texts.distinct.index(values[end])] > 1:
                    self.warn(
                        values[end],
                        f"{values[end]} is far from all other numbers; if it is a gap, write --gaps {values[end]}",
                    )

    def _counts(self, numbers: Floats) -> bool:
        """Whether each row is one more than the row before."""
        rows = len(self.texts.index)
        if not (FEW < rows == len(numbers) == len(self.texts.distinct)):
            return False
        return bool((np.diff(numbers[self.texts.index]) == 1.0).all())

    def _is_id(self) -> bool:
        return len(self.texts.distinct) == len(self.texts.index) and _IDS.fullmatch(self.name) is not None

    def raise_at(self, kind: str, values: list[str], right: Sequence[bool], more: str = "") -> NoReturn:
        """Names the first text that is not of a kind."""
        if not values:
            raise DataError(
                f"column '{self.name}': expected {_articled(kind)}, found only gaps; leave it out of columns"
            )
        rows = self.texts.index
        wrong = {i for i, text in enumerate(self.texts.distinct) if text in set(values)} - {
            self.texts.distinct.index(text) for text, is_right in zip(values, right, strict=True) if is_right
        }
        first = int(np.isin(rows, list(wrong)).argmax())
        text = self.texts.distinct[rows[first]]
        raise DataError(
            f"{self.place(first)}: column '{self.name}': expected {_articled(kind)}, got {shown(text)}; write "
            f"--gaps {shown(text)} if it is a gap, or {self.option('category')}{more}"
        )

    def check_mixture(self, values: list[str]) -> None:
        """Refuses a column of many different numbers or dates with a few texts, or with texts of two forms."""
        right, kind = list(map(is_number, values)), "number"
        if all(right):  # but of several forms
            first = affixes(values[0])
            right, kind = [affixes(text) == first for text in values], f"number such as {shown(values[0])}"
        elif not any(right):
            right, kind = _most_dates(values), "date"
        if all(right) or not any(right):
            return
        count = dict(zip(self.texts.distinct, self.texts.counts.tolist(), strict=True))
        rows = sum(count[text] for text in values)
        share = sum(count[text] for text, is_right in zip(values, right, strict=True) if is_right) / rows
        if share < (0.5 if kind in ("number", "date") else 0.0):
            return
        if sum(right) > FEW:
            self.raise_at(kind, values, right, f"; {100.0 * share:.3g} % of the cells have {_articled(kind)}")
        text = values[right.index(False)]
        self.warn(text, f"{shown(text)} is not {_articled(kind)} as others are, so the column is read as categories")

    def names(self) -> Told:
        """Categories, unless nearly all rows differ."""
        values = self.values(NAMES)
        if not values:
            return Told(self.name, "constant", left_out="only gaps")
        form, strange = unread(values)
        if form:
            message = (
                f"{shown(values[0])} is read as a name; {self.option(f'number:{form}')} reads a number with a unit"
            )
            self.warn(values[0], message)
        elif strange:
            self.warn(
                strange, f"{shown(strange)} is read as a name; if it is a number, write it as -1234.5 in the file"
            )
        count = dict(zip(self.texts.distinct, self.texts.counts.tolist(), strict=True))
        rows = sum(count[text] for text in values)
        length = sum(len(text) * count[text] for text in values) / rows
        share = len(values) / rows
        keep = f"{self.option('category')} keeps it"
        if length > LONG and share > 0.5 and rows > FEW:
            return Told(self.name, "text", left_out=f"free text: {len(values):,} different of {rows:,}; {keep}")
        if (share > NEARLY and rows > FEW) or self._is_id():
            how = "all different" if share == 1.0 else f"{len(values):,} different of {rows:,}"
            return Told(self.name, "identifier", left_out=f"identifier: {how}; {keep}")
        return self.told("category", NAMES)

    def compact_dates(self, values: list[str]) -> Told | None:
        """Dates such as 20200131, if all texts are dates of 1900 to 2100."""
        if len(values) <= 4 or not all(re.fullmatch(r"(19|20)\d{6}", text) for text in values):
            return None
        return self.moments(values, "date", "%Y%m%d")

    def moments(self, values: list[str], kind: str = "", form: str = "") -> Told | None:
        """Dates, times, or both; None if the texts are none."""
        forms = [(kind, form)] if form else [(k, f) for k, f in _forms(values[0]) if k == (kind or k)]
        forms = [(k, f) for k, f in forms if _parses(values[:TRIED], k, f)]
        found = [(k, f, numbers) for k, f in forms if (numbers := _moments(values, k, f)) is not None]
        if not found:
            return None
        if len(found) > 1:
            found.sort(key=lambda item: item[1].startswith("%d") == ("/" in item[1]))  # 1/2/20 is American, 1.2.20 not
            if not np.array_equal(found[0][2], found[1][2]):
                self.warn(
                    values[0],
                    f"{shown(values[0])} and all others may have day or month first; read as {found[0][1]}; "
                    f"{self.option(f'{found[1][0]}:{found[1][1]}')} says otherwise",
                )
        kind, form, numbers = found[0]
        decimals = max(len(text.rpartition(".")[2]) for text in values) if form.endswith("%f") else 0
        for variant in (form, re.sub("%([dmHI])", r"%-\1", form)):
            if all(
                written(number, kind, decimals, variant) == text.strip()
                for number, text in zip(numbers[:TRIED], values[:TRIED], strict=True)
            ):
                form = variant
                break
        return self.told(kind, WORDS, numbers, decimals, form)


def _articled(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


# Numbers


def _formed(values: list[str], kind: str, form: str) -> Numbers | None:
    """Numbers of texts of a form that the user names."""
    numbers, found = numbers_of(values, kind, form), _pattern(form)
    if np.isnan(numbers).any():
        return None
    point = found["point"] or "."
    digits = [len(text.strip().removesuffix(found["after"]).partition(point)[2].strip()) for text in values]
    return Numbers(numbers, *form_of(digits, found["group"] or "", point, found["before"], found["after"]))


# Dates and times


def _forms(text: str) -> Iterator[tuple[str, str]]:
    """Kinds and forms that the first text may have."""
    text = text.strip()
    if not (4 <= len(text) <= 40 and text.isascii() and any(c.isdigit() for c in text)):
        return
    zone = re.search(r"(?<=\d)(Z| ?[+-]\d\d:?\d\d| UTC)$", text) if ":" in text else None
    end = zone[0] if zone else ""
    every = [("time", form) for form in _TIMES] + [("date", form) for form in _DATES]
    every += [("datetime", f"{date}{gap}{time}{end}") for date, gap, time in product(_DATES, "T ", _TIMES)]
    for kind, form in every:
        if _parses([text], kind, form):
            yield kind, form


def _parses(values: Sequence[str], kind: str, form: str) -> bool:
    return _moments(values, kind, form) is not None


def _moments(values: Sequence[str], kind: str, form: str) -> list[float] | None:
    try:
        return [_moment(text.strip(), kind, form) for text in values]
    except ValueError:
        return None


def _most_dates(values: list[str]) -> list[bool]:
    """True for texts that are dates of the most frequent form."""
    best = [False] * len(values)
    for text in values[:3]:
        for kind, form in _forms(text):
            right = [_parses([value], kind, form) for value in values]
            best = right if sum(right) > sum(best) else best
    return best
