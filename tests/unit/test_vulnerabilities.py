"""The exit code and the lines of `make vulnerabilities` for each output of pip-audit."""

import json

from tests.vulnerabilities import CLEAN, UNKNOWN, VULNERABLE, describe_audit

SAFE = {"name": "click", "version": "8.3.0", "vulns": []}
VULNERABLE_PACKAGE = {
    "name": "pillow",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-2020-1", "fix_versions": ["1.1", "1.2"]}, {"id": "GHSA-x", "fix_versions": []}],
}
SKIPPED = {"name": "uvloop", "skip_reason": "Dependency not found on PyPI"}


def _describe(*packages: object) -> tuple[int, list[str]]:
    return describe_audit(json.dumps({"dependencies": packages, "fixes": []}), "")


def test_known_packages_without_vulnerabilities_pass() -> None:
    """If pip-audit knows all packages and finds no vulnerability, the exit code is CLEAN."""
    assert _describe(SAFE) == (CLEAN, ["no known vulnerability in 1 packages"])


def test_a_vulnerability_fails() -> None:
    """Each vulnerability has a line with the package, its version and the versions that fix it."""
    code, lines = _describe(SAFE, VULNERABLE_PACKAGE)
    assert code == VULNERABLE
    assert lines == ["pillow 1.0: PYSEC-2020-1, fixed in 1.1, 1.2", "pillow 1.0: GHSA-x, fixed in no version"]


def test_an_unknown_package_is_not_safe() -> None:
    """A package that pip-audit skips gives the exit code UNKNOWN, although pip-audit itself succeeds."""
    code, lines = _describe(SAFE, SKIPPED)
    assert code == UNKNOWN
    assert lines == [
        "of 1 of 2 packages nothing could be found out, such as uvloop: Dependency not found on PyPI"
    ]


def test_no_network_is_one_line() -> None:
    """Without a network, the last line of pip-audit's traceback is printed as the reason."""
    code, lines = describe_audit(
        "", "Traceback (most recent call last):\n  ...\nConnectionError: no route to host\n"
    )
    assert code == UNKNOWN
    assert lines == [
        "the advisories could not be reached, nothing was audited: ConnectionError: no route to host"
    ]
