"""Secrets in files: the variable X_FILE with a path replaces the variable X."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr

from core import Settings
from core.errors import SettingsError
from core.settings import RoleSettings
from core.settings.secret_files import MAX_BYTES, is_too_open, list_secrets
from core.testing import ENCRYPTION_KEYS

URL = "postgresql://echo@db.example:5433/echo"
SECRET = "s3cr3t/@%#? ü"

EXAMPLES = dict.fromkeys(("database_url", "database_replica_urls", "direct_url", "admin_url"), URL) | {
    "encryption_keys": ENCRYPTION_KEYS,
    "redis_url": "redis://127.0.0.1",
    "exporter_url": "http://127.0.0.1:1",
    "prometheus_url": "http://127.0.0.1:1",
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a file with mode 0600 and returns its path."""

    def write(content: str | bytes, *, name: str = "secret", mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    return write


@pytest.fixture(autouse=True)
def _database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)


@pytest.mark.parametrize("kind", [Settings, RoleSettings])
def test_fields_with_secret_names_are_secret(kind: type[Settings]) -> None:
    """Each field whose name ends with password, secret or _keys has a secret type."""
    named = {name for name in kind.model_fields if name.endswith(("password", "secret", "_keys"))}
    assert named <= set(list_secrets(kind))


@pytest.mark.parametrize("kind", [Settings, RoleSettings])
def test_every_secret_can_be_a_file(
    kind: type[Settings], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable X_FILE is read for every secret."""
    secrets = list(list_secrets(kind))
    assert secrets
    monkeypatch.delenv("DATABASE_URL")
    for field in secrets:
        monkeypatch.setenv(f"{field.upper()}_FILE", str(write("", name=field)))
    for field in secrets:
        with pytest.raises(SettingsError, match="is empty"):
            kind.load()
        write(EXAMPLES.get(field, "a" * 40), name=field)
    loaded = kind.load()
    assert all(getattr(loaded, field) is not None for field in secrets)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (SECRET, SECRET),
        (f"{SECRET}\n", SECRET),
        (f"{SECRET}\r\n", SECRET),
        (f"{SECRET}\n\n", f"{SECRET}\n"),
        (f" {SECRET} \n", f" {SECRET} "),
    ],
)
def test_one_newline_at_the_end_is_dropped(
    content: str, expected: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One newline at the end of the file, which editors add, is not part of the secret; other blanks are."""
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(write(content)))
    assert Settings.load().redis_password == SecretStr(expected)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * (MAX_BYTES + 1), "more than"),
    ],
)
def test_invalid_content_is_refused(
    content: str | bytes, words: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file, one that is not UTF-8 and one that is too large are refused; the error has the path."""
    path = write(content)
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(path))
    with pytest.raises(SettingsError, match=words) as caught:
        Settings.load()
    assert str(caught.value).startswith(f"DATABASE_PASSWORD_FILE names {path}, ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that does not exist, and the path of a folder, are refused."""
    for path, words in ((tmp_path / "nothing", "No such file"), (tmp_path, "Is a directory")):
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(path))
        with pytest.raises(SettingsError, match=f"REDIS_PASSWORD_FILE names .*cannot be read: {words}"):
            Settings.load()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o602, 0o620])
def test_a_file_that_others_can_use_is_refused(
    mode: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that other users can read or write is refused; the error has its mode but not its content."""
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(write(SECRET, mode=mode)))
    with pytest.raises(SettingsError, match=rf"mode {mode:04o}\); `chmod 600` it") as caught:
        Settings.load()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("mode", "expected"), [(0o444, False), (0o440, False), (0o464, True), (0o446, True)])
def test_a_file_of_an_orchestrator_may_be_readable(mode: int, *, expected: bool) -> None:
    """A file of another user, as an orchestrator mounts it, may be readable for all but not writable."""
    found = os.stat_result((stat.S_IFREG | mode, 1, 1, 1, os.geteuid() + 1, 1, 5, 0, 0, 0))
    assert is_too_open(found) is expected


def test_a_secret_is_read_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, as in `DATABASE_PASSWORD_FILE=<(command)`, is accepted, although it can be read only once."""
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe\n")
    os.close(writer)
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", f"/dev/fd/{reader}")
    try:
        assert "password=from%20a%20pipe" in Settings.load().database_url.get_secret_value()
    finally:
        os.close(reader)


def test_a_variable_and_its_file_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """X and X_FILE in the same place are refused, unless X is empty."""
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(write(SECRET)))
    monkeypatch.setenv("REDIS_PASSWORD", "another")
    with pytest.raises(SettingsError, match="REDIS_PASSWORD and REDIS_PASSWORD_FILE are both set"):
        Settings.load()
    monkeypatch.setenv("REDIS_PASSWORD", "")
    assert Settings.load().redis_password == SecretStr(SECRET)


def test_the_environment_overrides_the_env_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X or X_FILE in the environment overrides X or X_FILE in .env."""
    monkeypatch.chdir(tmp_path)
    secret = write("from the file")
    for first, second, expected in (
        (("REDIS_PASSWORD", "plain"), f"REDIS_PASSWORD_FILE={secret}", "plain"),
        (("REDIS_PASSWORD_FILE", str(secret)), "REDIS_PASSWORD=plain", "from the file"),
    ):
        (tmp_path / ".env").write_text(f"{second}\n", encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setenv(*first)
            loaded = Settings.load(_env_file=(".local/stack.env", ".env"))
            assert loaded.redis_password == SecretStr(expected)


def test_a_misspelt_file_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt X_FILE is refused, because the process would start without the password."""
    monkeypatch.setenv("REDIS_PASWORD_FILE", "/run/secrets/redis")
    with pytest.raises(SettingsError, match="the closest is REDIS_PASSWORD_FILE"):
        Settings.load()


@pytest.mark.parametrize("place", ["environment", "arguments"])
def test_a_password_completes_a_url(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DATABASE_PASSWORD, which may be any text, is added to a URL without a password."""
    given = {"database_url": URL, "database_password": SECRET, "direct_password": "unused"}
    if place == "environment":
        for name, value in given.items():
            monkeypatch.setenv(name.upper(), value)
        settings = Settings.load()
    else:
        settings = Settings.load(**{name: SecretStr(value) for name, value in given.items()})
    parts = parse_dsn(settings.database_url.get_secret_value())
    assert parts["password"] == SECRET
    assert parts["user"] == "echo"
    assert settings.direct_url is None
    own = "postgresql://echo:own@db.example/echo?sslmode=require"
    kept = Settings.load(database_url=own, database_password="another")
    assert kept.database_url.get_secret_value() == own


def test_a_missing_secret_names_both_variables() -> None:
    """The error about a missing secret names X and X_FILE."""
    with pytest.raises(SettingsError, match=r"ADMIN_URL is not set; .* or ADMIN_URL_FILE to the path"):
        RoleSettings.load()
