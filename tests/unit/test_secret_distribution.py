"""Each container gets a folder with only its own secrets."""

import os
import stat
from pathlib import Path

import pytest

from core.stack import secret_distribution
from core.stack.secret_distribution import Receiver, copy_secrets


@pytest.fixture(autouse=True)
def _receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Define two containers that run as the user of the tests, because `chown` needs root."""
    mine = os.getuid()
    receivers = {"alice": Receiver(mine, ("a", "common")), "bob": Receiver(mine, ("b", "common"))}
    monkeypatch.setattr(secret_distribution, "RECEIVERS", receivers)
    monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr(os, "fchown", lambda *_: None)


def read_copies(target: Path) -> dict[str, str]:
    """Return the path and content of each copied secret."""
    return {str(path.relative_to(target)): path.read_text() for path in target.glob("*/*")}


def test_each_container_gets_its_own_secrets(tmp_path: Path) -> None:
    """Only the container's user can read a copy; a changed secret is copied again, an empty one deleted."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("a", "b", "common", "unknown"):
        (source / name).write_text(f"secret {name}", encoding="utf-8")
    copy_secrets(source, target)
    assert read_copies(target) == {
        "alice/a": "secret a",
        "alice/common": "secret common",
        "bob/b": "secret b",
        "bob/common": "secret common",
    }
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in target.rglob("*")}
    assert modes == {"alice": 0o500, "bob": 0o500, "a": 0o400, "b": 0o400, "common": 0o400}

    for folder in target.iterdir():
        folder.chmod(0o700)  # 0o500 forbids a second copy, unless the test runs as root
    (source / "a").write_text("another", encoding="utf-8")
    (source / "b").write_text("", encoding="utf-8")  # an empty secret is not used
    copy_secrets(source, target)
    assert read_copies(target) == {
        "alice/a": "another",
        "alice/common": "secret common",
        "bob/common": "secret common",
    }
