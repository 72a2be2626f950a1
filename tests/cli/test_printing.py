"""What is printed: no control sequence of a stranger's reaches the terminal, and no name is taken for markup."""

from __future__ import annotations

import io
import re
import sys

import pytest

from bfn_toolkit import BFNWarning, DataError
from bfn_toolkit.cli import display, main
from bfn_toolkit.errors import printable

NASTY = "a\x1b[31m\x9b\x07\u202eb\r[bold]c[/b]\x7f\ud800"
SHOWN = r"a\x1b[31m\x9b\x07\u202eb\r[bold]c[/b]\x7f\ud800"


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable(NASTY) == SHOWN
    assert printable("plain, ü, 中\n\t") == "plain, ü, 中\n\t"
    assert printable(SHOWN) == SHOWN
    for code in (*range(9), *range(11, 32), *range(127, 160), 0x200E, 0x202A, 0x2066, 0x2028, 0xFEFF):
        assert printable(chr(code)).isascii()


def test_errors_and_warnings_are_printable_in_python_too() -> None:
    assert str(DataError(NASTY)) == str(BFNWarning(NASTY)) == SHOWN


@pytest.mark.parametrize("say", [display.say, display.complain, display.echo])
def test_lines_are_printable(say: object, capsys: pytest.CaptureFixture[str]) -> None:
    say(NASTY)  # type: ignore[operator]
    assert SHOWN in "".join(capsys.readouterr())


def test_tables_take_names_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    display.checkpoints_table(
        [{"name": NASTY, "step": 1, "valid_loss": None, "bytes": 1, "fault": "[/]"}], verified=True
    )
    display.aligned([("network", NASTY, "[red]", "[/x]")])
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 2
    assert "[/]" in out
    assert "[red]" in out
    assert "[/x]" in out


def test_usage_errors_and_warnings_of_commands_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--" + NASTY]) == 2
    assert main(["checkpoint", "list", NASTY.replace("\ud800", "")]) == 4
    assert main([NASTY]) == 2
    said = "".join(capsys.readouterr())
    assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said) == []
    assert said.count(r"\x1b[31m") >= 3


def test_data_are_escaped_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    for stream, expected in ((Terminal, r"\x1b[31m" + "\n"), (io.TextIOWrapper, "\x1b[31m\n")):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", stream(written, "utf-8"))
        out = display.stdout_bytes()
        out.write(b"\x1b[31m\n")
        out.flush()
        sys.stdout.flush()
        assert written.getvalue().decode() == expected
        monkeypatch.undo()
