"""A command that wants more memory than is free ends with an error, not by the system's hand."""

from __future__ import annotations

import os
import sys

import pytest

from bfn_toolkit.cli import memory
from bfn_toolkit.cli.memory import free_memory, limited_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems grant no more memory than there is")


def test_more_than_is_free_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(memory, "DRIVERS", ())
    monkeypatch.setattr(memory, "free_memory", lambda: 2**33)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory():
        assert len(bytearray(2**20)) == 2**20
        with pytest.raises(MemoryError):
            bytearray(2**33)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_there_is_no_limit_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(memory, "DRIVERS", (os.devnull,))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_free_memory_is_less_than_all() -> None:
    free = free_memory()
    assert free is not None
    assert 0 < free <= 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # twice, for the swap
