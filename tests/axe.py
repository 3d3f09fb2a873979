"""axe-core: the accessibility checker, fetched from npm for each test run and not stored.

Owns fetching its script and running it on a page in a browser. Each test decides which findings
make it fail.
"""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Page

PACKAGE = "axe-core@4.11.0"
"""A fixed version: a new rule of axe-core must not fail a test run without a change in this repository."""

FETCH_SECONDS = 120
SCRIPT = "package/axe.min.js"
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = "options => axe.run(document, options)"


class AxeMissing(Exception):
    """The checker cannot be fetched on this machine; the message says why."""


class Finding(NamedTuple):
    """A rule that a page violates, the impact, and the place in the page."""

    rule: str
    impact: str
    help: str
    places: tuple[str, ...]


def fetch_axe(folder: Path) -> str:
    """Return the checker's script; raises `AxeMissing` without npm or its registry."""
    npm = shutil.which("npm")
    if npm is None:
        raise AxeMissing("npm is not installed; `apt-get install npm` brings it")
    try:
        done = subprocess.run(
            [npm, "pack", "--silent", "--json", PACKAGE],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise AxeMissing(f"npm cannot fetch {PACKAGE}: {error}") from error
    [packed] = json.loads(done.stdout)
    with tarfile.open(folder / packed["filename"]) as archive:
        script = archive.extractfile(SCRIPT)
        assert script is not None
        return script.read().decode()


def find_violations(page: Page, script: str) -> list[Finding]:
    """Check the current state of a page; bypasses its content policy, which would refuse the script."""
    page.evaluate(script)
    result = page.evaluate(RUN, {"runOnly": STANDARDS, "resultTypes": ["violations"]})
    return [
        Finding(
            item["id"],
            item["impact"] or "minor",
            item["help"],
            tuple(_describe(node) for node in item["nodes"]),
        )
        for item in result["violations"]
    ]


def _describe(node: dict[str, Any]) -> str:
    place = " ".join(str(part) for part in node["target"])
    reasons = [check["message"] for check in (*node["any"], *node["all"], *node["none"])]
    return f"{place}: {'; '.join(reasons)}"
