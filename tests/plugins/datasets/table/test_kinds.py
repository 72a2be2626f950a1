"""Kinds of columns by their content, gaps in all spellings, and numbers and dates as they are written."""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bfn_files.tables import Texts
from bfn_table.kinds import KINDS, Told, numbers_of, parsed, tell, written
from bfn_toolkit import BFNWarning, ConfigError, DataError


def texts(cells: Sequence[str]) -> Texts:
    distinct = tuple(dict.fromkeys(cells))
    return Texts(distinct, np.array([distinct.index(cell) for cell in cells], np.int32))


def told(cells: Sequence[str], wanted: str | None = None, name: str = "a", **more: object) -> Told:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tell(name, texts(cells), lambda row: f"x.csv:{row + 2}", wanted, **more)  # type: ignore[arg-type]


NAMES = [f"{a}{b}" for a in "uvwxyz" for b in "aeiou"]  # 30
KIND = {
    "integers": ("1 2 2 -3 +4", "integer", 0, ""),
    "few integers": ("3 4 3 4 6 3", "integer", 0, ""),
    "zeros and ones": ("0 1 1 0 1 0", "integer", 0, ""),
    "integers of pandas": ("1.0 2.0 2.0 5.0", "integer", 1, "0.0"),
    "numbers": ("1.5 2.0 3.5", "number", 1, ""),
    "two decimals": ("1.50 2.05 10.00", "number", 2, ""),
    "without zeros at the end": ("39.1 18 3.25", "number", 2, "0.##"),
    "repr of Python": ("0.1 12.0 3.25", "number", 2, "0.0#"),
    "all digits": ("0.1234567890123 2.5 7.0", "number", -1, ""),
    "all digits of R": ("0.1234567890123 2.5 7", "number", -1, "0.#"),
    "exponents": ("1e-05 2.5 1E3", "number", -1, ""),
    "no leading zero": (".5 -.25 1.5", "number", 2, "0.0#"),
    "decimal comma": ("1,5 2,25 10", "number", 2, "0,##"),
    "thousands": ("1,234,567 12,345 7", "integer", 0, "#,##0"),
    "thousands and decimals": ("1,234.50 7.25 12,000.00", "number", 2, "#,##0.00"),
    "German thousands": ("1.234,50 7,25 12.000,00", "number", 2, "#.##0,00"),
    "Swiss thousands": ("1'234.5 12'000.0 7.0", "number", 1, "#'##0.0"),
    "percent": ("5% 12.5% -1%", "number", 1, "0.#%"),
    "money": ("$1,234.50 $5.00 -$7.25", "number", 2, "$#,##0.00"),
    "euros": (
        "12,50\N{NO-BREAK SPACE}\u20ac 3,00\N{NO-BREAK SPACE}\u20ac",
        "number",
        2,
        "0,00\N{NO-BREAK SPACE}\u20ac",
    ),
    "minus sign": ("\N{MINUS SIGN}1,5 2,5", "number", 1, "0,0"),
    "zip codes": ("01234 10115 80331 01234", "category", -1, ""),
    "beyond 2**53": ("9007199254740993 1 1 9007199254740993", "category", -1, ""),
    "names": ("red blue red green", "category", -1, ""),
    "doses": ("1 2 high low high low", "category", -1, ""),
    "truth": ("True False True", "boolean", -1, ""),
    "yes": ("yes no no", "boolean", -1, ""),
    "letters": ("t f f t", "boolean", -1, ""),
    "yes and maybe": ("yes no maybe", "category", -1, ""),
    "constant": ("x x x", "constant", -1, ""),
    "constant number": ("1 1 1", "constant", -1, ""),
    "ISO dates": ("2020-01-31 2019-12-01", "date", 0, "%Y-%m-%d"),
    "slashes, year first": ("2020/01/31 2019/12/01", "date", 0, "%Y/%m/%d"),
    "German dates": ("31.01.2020 01.12.2019", "date", 0, "%d.%m.%Y"),
    "short German dates": ("31.1.2020 1.12.2019", "date", 0, "%-d.%-m.%Y"),
    "British dates": ("31/01/2020 01/12/2019", "date", 0, "%d/%m/%Y"),
    "American dates": ("01/31/2020 12/01/2019", "date", 0, "%m/%d/%Y"),
    "two digits of the year": ("31.01.20 01.12.99", "date", 0, "%d.%m.%y"),
    "compact dates": ("20200131 20191201 20191202 20191203 20191204", "date", 0, "%Y%m%d"),
    "months": ("2020-01 2019-12", "date", 0, "%Y-%m"),
    "names of months": ("31-Jan-2020 01-Dec-2019", "date", 0, "%d-%b-%Y"),
    "datetimes": ("2020-01-31T12:30:05 2019-12-01T00:00:00", "datetime", 0, "%Y-%m-%dT%H:%M:%S"),
    "zones": ("2020-01-31T12:30Z 2019-12-01T00:00Z", "datetime", 0, "%Y-%m-%dT%H:%MZ"),
    "milliseconds": ("2020-01-31T12:30:05.250 2019-12-01T00:00:00.001", "datetime", 3, "%Y-%m-%dT%H:%M:%S.%f"),
    "times": ("12:30 01:05 23:59", "time", 0, "%H:%M"),
    "times without zeros": ("12:30 1:05 23:59", "time", 0, "%-H:%M"),
}


@pytest.mark.parametrize("name", KIND)
def test_kinds_are_told_by_content(name: str) -> None:
    line, kind, decimals, form = KIND[name]
    cells = line.split(" ")
    found = told(cells)
    assert (found.kind, found.decimals, found.form) == (kind, decimals, form)
    assert (found.gaps, found.left_out) == ((), "")
    if kind in ("number", "integer", "date", "datetime", "time"):
        column = texts(cells)
        again = [written(number, kind, decimals, form) for number in found.numbers]
        assert numbers_of(again, kind, form).tolist() == found.numbers.tolist()
        assert numbers_of(column.distinct, kind, form).tolist() == found.numbers.tolist()


@pytest.mark.parametrize(
    "name",
    [n for n in KIND if n not in ("integers", "percent", "exponents", "no leading zero", "minus sign", "few integers")],
)
def test_numbers_and_dates_are_written_as_they_were(name: str) -> None:
    line, kind, decimals, form = KIND[name]
    if kind in ("number", "integer", "date", "datetime", "time"):
        cells = list(dict.fromkeys(line.split(" ")))
        assert [written(number, kind, decimals, form) for number in told(cells).numbers] == cells


def test_numbers_of_cells() -> None:
    assert told(["1,5", "-2,25"]).numbers.tolist() == [1.5, -2.25]
    assert told(["$1,234.50", "-$5.00", "$-7.25"]).numbers.tolist() == [1234.5, -5.0, -7.25]
    assert told(["5%", "12.5%"]).numbers.tolist() == [5.0, 12.5]
    days = (datetime.date(2020, 2, 29) - datetime.date(1970, 1, 1)).days
    assert told(["29.02.2020", "01.01.1970", "31.12.1969"]).numbers.tolist() == [days, 0.0, -1.0]
    seconds = days * 86400.0 + 12 * 3600 + 30 * 60
    assert told(["2020-02-29 12:30", "1970-01-01 00:01"]).numbers.tolist() == [seconds, 60.0]
    assert told(["12:30", "00:01"]).numbers.tolist() == [45000.0, 60.0]


@pytest.mark.parametrize(
    "gap",
    ["", " ", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "?", "-", "--", ".", "#N/A", "<NA>", "missing"],
)
@pytest.mark.parametrize("cells", ["1 2 2", "1.5 2.5", "2020-01-31 2019-12-01", "12:30 01:05", "1,5 2,25"])
def test_gaps_among_numbers_and_dates(cells: str, gap: str) -> None:
    found = told([gap, *cells.split(), gap, ""])
    assert found.kind == told(cells.split()).kind
    assert set(found.gaps) == {gap, ""}
    assert math.isnan(found.numbers[0])
    assert found.gaps[0] == gap  # the commonest first


def test_gaps_among_names_are_those_that_cannot_be_names() -> None:
    found = told(["red", "", "NA", "n/a", "null", "?", "None", "-", "missing", "red", "red", "none"])
    assert (found.kind, set(found.gaps)) == ("category", {"", "NA", "n/a", "null", "?"})
    assert set(told(["red", "None", "-", "red"], gaps=["None", "-"]).gaps) == {"None", "-"}
    assert told(["yes", "no", "", "no"]).kind == "boolean"


def test_na_is_a_country() -> None:
    countries = ["DE", "FR", "NA", "US", "BR", "ZA", "CL", "DE", "NA", "FR"]
    assert told([*countries, ""]).gaps == ("",)
    assert told([*countries, "unknown"]).gaps == ("NA",)
    assert told(countries, gaps=["NA"]).gaps == ("NA",)


def test_further_gaps_count_in_every_column() -> None:
    found = told(["1", "2", "-999", "3", "-999"], gaps=["-999"])
    assert (found.kind, found.gaps) == ("integer", ("-999",))
    assert np.isnan(found.numbers).tolist() == [False, False, True, False]


LEFT_OUT = {
    "counts the rows": ([str(i) for i in range(7, 40)], "x"),
    "all different": ([str(i * i) for i in range(5)], "customer_id"),
    'all different; --types "x=category" keeps it': (NAMES, "x"),
    "phone numbers": ([f"030{i * 7919:06}" for i in range(1, 30)], "phone"),
    "large numbers": ([str(2**60 + i) for i in range(20)], "x"),
    "29 different of 30": ([*NAMES[1:], NAMES[1]], "x"),
    "free text": ([f"a long remark about the row, which has the number {i} or so" for i in range(20)], "x"),
    "only gaps": (["NA", "", "NA"], "x"),
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_columns_without_use_are_left_out_with_the_reason(reason: str) -> None:
    cells, name = LEFT_OUT[reason]
    expected = "identifier" if reason == "phone numbers" or reason == "large numbers" else reason
    assert expected in told(cells, name=name).left_out
    if reason != "only gaps":
        assert not told(cells, "category", name=name).left_out


def test_numbers_that_all_differ_are_numbers() -> None:
    assert told([str(i / 8) for i in range(50)]).kind == "number"
    assert told([str(i * i) for i in range(50)]).kind == "integer"
    assert told([str(i) for i in range(10)]).kind == "integer"  # too few rows to tell
    assert told([str(i) for i in reversed(range(50))]).kind == "integer"


@pytest.mark.parametrize("kind", KINDS)
def test_the_user_says_otherwise(kind: str) -> None:
    cells = {"date": ["2020-01-31"], "datetime": ["2020-01-31 12:00"], "time": ["12:00"]}.get(kind, ["1", "2", "2"])
    found = told(cells, kind)
    assert found.kind == kind
    assert bool(found.left_out) == (kind in ("identifier", "text"))


def test_the_user_names_the_form() -> None:
    cells = ["01/02/2020", "03/04/2020"]
    assert told(cells, "date:%m/%d/%Y").numbers[0] == (datetime.date(2020, 1, 2) - datetime.date(1970, 1, 1)).days
    assert told(cells, "date:%d/%m/%Y").numbers[0] == (datetime.date(2020, 2, 1) - datetime.date(1970, 1, 1)).days
    assert told(["1,234", "5,678"], "number:0,0").numbers.tolist() == [1.234, 5.678]
    with pytest.raises(DataError, match=r"x.csv:3: column 'a': expected a date as %m/%d/%Y, got '13/04/2020'"):
        told(["01/02/2020", "13/04/2020"], "date:%m/%d/%Y")
    with pytest.raises(ConfigError, match=r"'a=categry': expected one of number, .*Did you mean 'category'\?"):
        told(cells, "categry")


def test_ambiguous_texts_are_said() -> None:
    def warned(*cells: str, match: str) -> Told:
        with pytest.warns(BFNWarning, match=match):
            return tell("a", texts(cells), lambda row: f"x.csv:{row + 2}")

    found = warned(
        "01/02/2020", "03/04/2020", match=r'x.csv:2: column \'a\': .*--types "a=date:%d/%m/%Y" says otherwise'
    )
    assert found.form == "%m/%d/%Y"
    found = warned("01-02-2020", "03-04-2020", match='read as %d-%m-%Y; --types "a=date:%m')
    assert found.form == "%d-%m-%Y"
    found = warned("1,234", "5,678", match=r"'1,234' is read as 1234; .*--types \"a=number:0,000\"")
    assert (found.kind, found.numbers.tolist()) == ("integer", [1234.0, 5678.0])
    assert told(["01/01/2020", "02/02/2020"]).kind == "date"  # either order is the same


def test_a_decimal_comma_elsewhere_makes_a_dot_one_of_thousands() -> None:
    for comma, number, other in ((True, 12345.0, "0.000"), (None, 12.345, "#.##0")):
        with pytest.warns(BFNWarning, match=rf"'12.345' is read as {number:.10g}; .*--types \"a=number:{other}\""):
            found = tell("a", texts(["1.234", "12.345"]), str, comma=comma)
        assert found.numbers.tolist() == [1234.0 if comma else 1.234, number]
    assert told(["1.234", "1.234.567"], comma=True).numbers.tolist() == [1234.0, 1234567.0]
    assert told(["1.234", "12.345"]).numbers.tolist() == [1.234, 12.345]
    assert told(["1.5", "12.345"], comma=True).numbers.tolist() == [1.5, 12.345]


def test_mixed_columns_are_refused_with_the_place_and_what_to_write() -> None:
    numbers = [str(i * i) for i in range(30)]
    with pytest.raises(DataError, match=r"x.csv:12: column 'a': expected a number, got 'old'; write --gaps") as raised:
        told([*numbers[:10], "old", *numbers[10:], "old"])
    assert '--types "a=category"' in str(raised.value)
    assert "93.8 % of the cells" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert told([*numbers, "old"], gaps=["old"]).kind == "integer"
    dates = [f"2020-01-{day:02}" for day in range(1, 25)]
    with pytest.raises(DataError, match=r"x.csv:26: column 'a': expected a date, got 'soon'"):
        told([*dates, "soon"])
    with pytest.raises(DataError, match=r"x.csv:3: column 'a': expected a number, got 'old'"):
        told(["1", "old"], "number")
    with pytest.raises(DataError, match=r"x.csv:3: column 'a': expected an integer, got '1.5'"):
        told(["1", "1.5"], "integer")
    with pytest.warns(
        BFNWarning, match="x.csv:4: column 'a': 'many' is not a number as others are, so the column is read as"
    ):
        assert tell("a", texts(["1", "2", "many", "2"]), lambda row: f"x.csv:{row + 2}").kind == "category"


def test_numbers_of_two_forms_are_refused() -> None:
    with pytest.raises(DataError, match=r"x.csv:3: column 'a': expected a number such as '0%', got '1'; .* 50 %"):
        told([f"{i}%" if i % 2 == 0 else f"{i}" for i in range(40)])


def test_a_number_far_from_all_others_may_be_a_gap() -> None:
    with pytest.warns(BFNWarning, match=r"x.csv:4: column 'a': -999 is far .*, write --gaps -999"):
        assert tell("a", texts(["1", "2", "-999", "3", "-999"]), lambda row: f"x.csv:{row + 2}").kind == "integer"
    assert told(["900", "1", "500", "999", "999"]).kind == "integer"


def test_digits_of_other_scripts_are_names() -> None:
    assert told(["\u0663", "\u0661\u0662", "\u0663"]).kind == "category"


@pytest.mark.parametrize("name", ["paid", "humid", "valid"])
def test_not_every_name_that_ends_in_id_is_one(name: str) -> None:
    assert told([str(i * i) for i in range(5)], name=name).kind == "integer"


@pytest.mark.parametrize("cell", ["inf", "-inf", "Infinity", "1e999"])
def test_infinite_numbers_are_refused(cell: str) -> None:
    with pytest.raises(DataError, match=rf"x.csv:3: column 'a': '{cell}' is not finite; write --gaps {cell}"):
        told(["1.5", cell, "2.5"])
    assert told(["1.5", cell, "2.5"], gaps=[cell]).kind == "number"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2))
def test_any_doubles_come_back(values: list[float]) -> None:
    found = tell("a", texts([repr(value) for value in values]), str, "number")
    kept = np.array(list(dict.fromkeys(repr(value) for value in values)), np.float64)
    assert (found.numbers == kept).all()
    again = numbers_of([written(v, "number", found.decimals, found.form) for v in found.numbers], "number", found.form)
    assert (again == kept).all()


@given(
    st.lists(st.integers(-(10**6), 10**6), min_size=2),
    st.integers(0, 4),
    st.sampled_from(["0,00", "#,##0.0#", "$0.##"]),
)
def test_any_decimals_are_written_and_read(numbers: list[int], decimals: int, form: str) -> None:
    for number in numbers:
        value = round(number / 100.0, 2)
        text = written(value, "number", 2, form)
        assert parsed(text, "number", form) == value
        assert parsed(written(value, "number", 2, ""), "number", "") == value


@given(
    st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)),
    st.sampled_from(["%d.%m.%Y %H:%M:%S.%f"]),
)
def test_any_moment_comes_back(moment: datetime.datetime, form: str) -> None:
    value = parsed(moment.strftime(form), "datetime", form)
    assert written(value, "datetime", 6, form) == moment.strftime(form)
    day = parsed(moment.strftime("%-d/%-m/%Y"), "date", "%-d/%-m/%Y")
    assert day == math.floor(value / 86400.0)
    assert written(day, "date", 0, "%-d/%-m/%Y") == moment.strftime("%-d/%-m/%Y")
