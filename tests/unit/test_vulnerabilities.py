"""What `make vulnerabilities` makes of pip-audit's answers."""

import json

from tests.vulnerabilities import CLEAN, UNKNOWN, VULNERABLE, judge

SAFE = {"name": "click", "version": "8.3.0", "vulns": []}
VULNERABLE_PACKAGE = {
    "name": "pillow",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-2020-1", "fix_versions": ["1.1", "1.2"]}, {"id": "GHSA-x", "fix_versions": []}],
}
SKIPPED = {"name": "uvloop", "skip_reason": "Dependency not found on PyPI"}


def _judge(*packages: object) -> tuple[int, list[str]]:
    return judge(json.dumps({"dependencies": packages, "fixes": []}), "")


def test_all_packages_are_known_and_safe() -> None:
    """This is the only answer with exit status 0."""
    assert _judge(SAFE) == (CLEAN, ["no known vulnerability in 1 packages"])


def test_a_vulnerability_fails_and_names_its_remedy() -> None:
    """Each is listed with the versions that fix it."""
    code, lines = _judge(SAFE, VULNERABLE_PACKAGE)
    assert code == VULNERABLE
    assert lines == ["pillow 1.0: PYSEC-2020-1, fixed in 1.1, 1.2", "pillow 1.0: GHSA-x, fixed in no version"]


def test_a_package_without_an_answer_is_not_safe() -> None:
    """pip-audit itself succeeds when an index answers without the packages."""
    code, lines = _judge(SAFE, SKIPPED)
    assert code == UNKNOWN
    assert lines == [
        "of 1 of 2 packages nothing could be found out, such as uvloop: Dependency not found on PyPI"
    ]


def test_no_network_is_said_in_one_line() -> None:
    """The last line of the traceback has the reason."""
    code, lines = judge("", "Traceback (most recent call last):\n  ...\nConnectionError: no route to host\n")
    assert code == UNKNOWN
    assert lines == [
        "the advisories could not be reached, nothing was audited: ConnectionError: no route to host"
    ]
