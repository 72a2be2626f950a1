"""``pytest --bfn-check SUBJECT`` runs the laws on a plugin without a test file.

Every pytest run in an environment with bfn-toolkit imports this module, so its own imports are light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bfn_toolkit.testing.law import Law


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.getgroup("bfn-toolkit").addoption(
        "--bfn-check",
        action="append",
        default=[],
        metavar="SUBJECT",
        help="Run the laws on a registered name, a plugin's module, module:attribute or path/file.py:attribute.",
    )


class LawItem(pytest.Item):
    """Test item: one law on one subject."""

    def __init__(self, *, law: Law, subject: Any, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.law, self.subject = law, subject

    def runtest(self) -> None:
        """Checks the law."""
        self.law.check(self.subject)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message of the broken law, without a traceback."""
        from bfn_toolkit.testing.law import LawBroken

        return str(excinfo.value) if isinstance(excinfo.value, LawBroken) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """The subject and the law."""
        return self.path, None, self.name


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds one test for each law and subject."""
    if not config.getoption("bfn_check"):
        return
    from bfn_toolkit.errors import BFNError
    from bfn_toolkit.registry.registry import default_registry
    from bfn_toolkit.testing.kit import laws_for
    from bfn_toolkit.testing.subjects import find_subjects

    for name in config.getoption("bfn_check"):
        try:
            subjects = find_subjects(name, default_registry())
            pairs = [(law, n, subject) for n, subject in enumerate(subjects) for law in laws_for(subject)]
        except BFNError as error:
            raise pytest.UsageError(f"--bfn-check: {error}") from error
        for law, n, subject in pairs:
            items.append(LawItem.from_parent(session, name=f"{name}[{n}]::{law.name}", law=law, subject=subject))
