"""The steps of docs/extending.md work: they are applied to a copy of the checkout, and the copy is tested."""

import os
import re
import subprocess
import sys
import textwrap
from datetime import date
from pathlib import Path

import pytest

from core import EnhancedDatabaseService, Settings
from tests.end_to_end.checkout import copy_checkout

PAGE = "docs/extending.md"
STEP = re.compile(
    r"""^```(?:python|text) (\S+)(?: (after|before|replace)=(["'])(.+?)\3)?\n(.*?)^```$""",
    re.DOTALL | re.MULTILINE,
)
# Reads a currency three times, once more after a change, and once more after its symbol was deleted. Prints
# the values, and the number of loads of the first three reads.
CURRENCIES = """
from core import open_service
from core.queries import ticks
loads = []
list_currencies = ticks.list_currencies
ticks.list_currencies = lambda database: loads.append(1) or list_currencies(database)
with open_service() as service:
    service.insert_market_tick("AAPL", 180)
    service.update_symbol_currencies({"AAPL": "USD"})
    first = [service.get_symbol_currency("AAPL") for _ in range(3)]
    count = len(loads)
    service.update_symbol_currencies({"AAPL": "EUR"})
    print(*first, service.get_symbol_currency("AAPL"), count, "load")
    service.delete_market_ticks("AAPL")
    print(service.get_symbol_currency("AAPL"))
"""

# Tests that compare documents or lists with the code.
DOCUMENT_TESTS = (
    "tests/unit/test_documents.py",
    "tests/unit/test_records.py",
    "tests/unit/test_cache_kinds.py",
    "tests/integration/test_arguments.py::test_every_call_and_parameter_is_in_the_table",
    "tests/integration/test_arguments.py::test_the_documents_list_every_call",
    "tests/integration/test_docstring_claims.py::test_every_call_that_reads_is_tried",
    "tests/integration/test_docstring_claims.py::test_every_call_that_writes_is_tried",
    "tests/integration/test_docstring_claims.py::test_no_answer_is_older_than_the_last_change",
    "tests/integration/test_docstring_claims_types.py::test_every_error_can_be_met",
    "tests/integration/test_self_test.py::test_every_call_is_really_made",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout to which every step of the page is applied."""
    root = tmp_path_factory.mktemp("extended")
    copy_checkout(root)
    for name, place, _, anchor, lines in STEP.findall((root / PAGE).read_text("utf-8")):
        insert_lines(root / name, place, anchor, lines)
    ended = run(root, "-m", "tests.reference")
    assert ended.returncode == 0, ended.stdout
    return root


def insert_lines(file: Path, place: str, anchor: str, lines: str) -> None:
    """Insert lines after or before the line with `anchor`, in place of `anchor`, or at the file's end."""
    text = file.read_text("utf-8")
    anchor = anchor.replace(r"\n", "\n")
    if not place:
        file.write_text(f"{text}\n\n{lines}", "utf-8")
        return
    if place == "replace":
        assert text.count(anchor) == 1, f"{file.name} does not have {anchor!r} once"
        file.write_text(text.replace(anchor, lines.removesuffix("\n")), "utf-8")
        return
    found = re.search(rf"^( *)[^\n]*{re.escape(anchor)}[^\n]*\n", text, re.MULTILINE)
    assert found is not None, f"{file.name} has no line with {anchor!r}"
    at = found.end() if place == "after" else found.start()
    blank = "" if place == "after" else "\n\n"
    file.write_text(text[:at] + textwrap.indent(lines, found[1]) + blank + text[at:], "utf-8")


def run(root: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy; PYTHONPATH puts the copy before an editable install of this checkout."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_command_reads_its_setting(
    extended: Path, settings: Settings, service: EnhancedDatabaseService
) -> None:
    """The example command fails without sessions, and prints at most SESSIONS_SHOWN sessions."""
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "ENABLE_REDIS_CACHE": "false",
        "SESSIONS_SHOWN": "2",
    }
    ended = run(extended, "-m", "core.cli", "sessions", **environment)
    assert (ended.returncode, ended.stdout.startswith("error: no session has")) == (1, True), ended.stdout
    alice = service.create_user(username="alice")
    for day in (date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)):
        service.get_current_portfolio(alice.id, day)
    ended = run(extended, "-m", "core.cli", "sessions", **environment)
    assert (ended.returncode, ended.stdout) == (0, "2026-01-07\n2026-01-06\n")


def test_the_cached_read_is_cached_and_invalidated(
    extended: Path, settings: Settings, service: EnhancedDatabaseService
) -> None:
    """Of three reads only the first loads from PostgreSQL, and a read after a write returns the new value."""
    assert settings.redis_password is not None
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
        "REDIS_KEY_PREFIX": settings.redis_key_prefix,
    }
    ended = run(extended, "-c", CURRENCIES, **environment)
    assert (ended.returncode, ended.stdout) == (0, "USD USD USD EUR 1 load\nNone\n")


def test_the_steps_are_complete(extended: Path) -> None:
    """After the steps, the tests that compare documents and lists with the code pass."""
    ended = run(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", *DOCUMENT_TESTS)
    assert ended.returncode == 0, ended.stdout
