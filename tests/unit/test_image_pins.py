"""`make pin-images`, which writes image digests into compose files; a script stands in for `docker`."""

from pathlib import Path

import pytest

from core.errors import StackError
from core.stack.image_pins import pin_images

TEXT = """x-images:
  postgres: &postgres_image ${POSTGRES_IMAGE:-postgres:17}
  redis: &redis_image ${REDIS_IMAGE:-redis:8@sha256:old}
services:
  a:
    image: ${COMPOSE_PROJECT_NAME:-echo-markets}-app
"""


@pytest.fixture
def compose_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a compose file with two images; the stand-in for docker knows the digest of one."""
    program = tmp_path / "docker"
    program.write_text(
        "#!/bin/sh\n"
        '[ -e "$0.$(echo $4 | tr : _)" ] || { echo "ERROR: $4: not found" >&2; exit 1; }\n'
        "echo sha256:$(printf '%064d' 7)\n",
        encoding="utf-8",
    )
    program.chmod(0o700)
    (tmp_path / "docker.postgres_17").touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "compose.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_every_tag_gets_its_digest(compose_file: Path) -> None:
    """Every image gets the digest of its tag, an older digest is replaced, and nothing else changes."""
    (compose_file.parent / "docker.redis_8").touch()
    digest = f"sha256:{7:064d}"
    other = compose_file.with_name("proxy.yaml")
    other.write_text("image: ${REDIS_IMAGE:-redis:8}\n", encoding="utf-8")
    assert pin_images([compose_file, other]) == {"postgres:17": digest, "redis:8": digest}
    assert other.read_text(encoding="utf-8") == f"image: ${{REDIS_IMAGE:-redis:8@{digest}}}\n"
    expected = TEXT.replace("postgres:17}", f"postgres:17@{digest}}}").replace("sha256:old", digest)
    assert compose_file.read_text(encoding="utf-8") == expected


def test_nothing_is_written_without_every_digest(compose_file: Path) -> None:
    """If one digest cannot be found, the error has the registry's message, and the file is unchanged."""
    with pytest.raises(StackError, match=r"of redis:8 cannot be found \(ERROR: redis:8: not found\)"):
        pin_images([compose_file])
    assert compose_file.read_text(encoding="utf-8") == TEXT
