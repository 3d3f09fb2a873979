"""What docs/extending.md shows works: its steps are applied to a copy of the checkout, which is then used."""

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from core import EnhancedDatabaseService, Settings
from tests.end_to_end.checkout import copy_checkout

PAGE = "docs/extending.md"
STEP = re.compile(
    r'^```(?:python|text) (\S+)(?: (after|before)="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with every step of the page."""
    root = tmp_path_factory.mktemp("extended")
    copy_checkout(root)
    for name, place, anchor, lines in STEP.findall((root / PAGE).read_text("utf-8")):
        insert(root / name, place, anchor, lines)
    ended = run(root, "-m", "tests.reference")
    assert ended.returncode == 0, ended.stdout
    return root


def insert(file: Path, place: str, anchor: str, lines: str) -> None:
    """Insert lines after or before the line that has a text, or at the end."""
    text = file.read_text("utf-8")
    if not place:
        file.write_text(f"{text}\n\n{lines}", "utf-8")
        return
    found = re.search(rf"^.*{re.escape(anchor)}.*\n", text, re.MULTILINE)
    assert found is not None, f"{file.name} has no line with {anchor!r}"
    at = found.end() if place == "after" else found.start()
    blank = "" if place == "after" else "\n\n"
    file.write_text(text[:at] + lines + blank + text[at:], "utf-8")


def run(root: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy; an editable install of this checkout comes later on the path."""
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
    """It fails with its own error first, and then prints as many sessions as the setting says."""
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


def test_the_steps_are_complete(extended: Path) -> None:
    """Documents and code agree again, so the page forgets no file."""
    ended = run(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_documents.py")
    assert ended.returncode == 0, ended.stdout
