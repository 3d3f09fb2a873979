"""Check the accessibility of pages with axe-core, which is downloaded from npm for each test run.

Owns the download of the script and its run on a page in a browser. Each test decides which violations make it
fail.
"""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Page

PACKAGE = "axe-core@4.11.0"
"""Package with a fixed version, so that a new rule of axe-core cannot fail the tests by itself."""

FETCH_SECONDS = 120
SCRIPT = "package/axe.min.js"
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = "options => axe.run(document, options)"


class AxeMissing(Exception):
    """axe-core cannot be downloaded on this machine; the message gives the reason."""


class Finding(NamedTuple):
    """A rule that a page violates, the impact, and the elements that violate it, with the reasons."""

    rule: str
    impact: str
    help: str
    places: tuple[str, ...]


def fetch_axe(folder: Path) -> str:
    """Return the script of axe-core; raises `AxeMissing` if npm or its registry is missing."""
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
    """Return the rules that a page violates in its current state.

    `page.evaluate` runs the script; the Content Security Policy would block it in a `<script>` element.
    """
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
