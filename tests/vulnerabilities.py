"""Checks the locked packages for known vulnerabilities, and reports packages without data.

pip-audit succeeds when an index has no data on the packages (such as a mirror without advisories), and ends
with a traceback when there is no network. Neither result means that the packages are safe.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOCK_FILES = ("requirements-local.lock", "requirements-dev.lock", "requirements-security.lock")
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2
"""Exit codes; UNKNOWN means that some packages could not be checked."""


def main(command: Sequence[str]) -> int:
    """Run a pip-audit command for each lock file and print the results; returns the worst exit code."""
    return max(_audit(command, file) for file in LOCK_FILES)


def _audit(command: Sequence[str], file: str) -> int:
    options = ("--requirement", file, "--disable-pip", "--require-hashes", "--format", "json")
    audit = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    code, lines = describe_audit(audit.stdout, audit.stderr)
    sys.stdout.write(f"{Path(file).name}: " + "\n  ".join(lines) + "\n")
    return code


def describe_audit(output: str, errors: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines for pip-audit's JSON output, or for its error output."""
    try:
        packages: Sequence[Mapping[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        reason = errors.strip().rpartition("\n")[2] or "pip-audit said nothing"
        return UNKNOWN, [f"the advisories could not be reached, nothing was audited: {reason}"]
    unknown = [package for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']},"
        f" fixed in {', '.join(found['fix_versions']) or 'no version'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    code = VULNERABLE if lines else CLEAN
    if unknown:
        code = UNKNOWN
        lines.append(
            f"of {len(unknown)} of {len(packages)} packages nothing could be found out,"
            f" such as {unknown[0]['name']}: {unknown[0]['skip_reason']}"
        )
    return code, lines or [f"no known vulnerability in {len(packages)} packages"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
