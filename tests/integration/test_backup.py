"""Tests of backups: the format of the file, the detection of damage, and the restored database."""

import base64
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import StackError
from core.stack import backup
from core.stack.backup import (
    DatabaseProgram,
    build_dump_command,
    build_restore_command,
    check_backup,
    parse_key,
    restore_backup,
    write_backup,
)
from tests.conftest import created_database
from tests.game import SESSIONS, play_game

KEY, OTHER_KEY = secrets.token_bytes(32), secrets.token_bytes(32)


def _print(content: bytes) -> DatabaseProgram:
    """Return a program that writes `content` to stdout, in place of pg_dump."""
    code = "import sys; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1]))"
    return DatabaseProgram([sys.executable, "-c", code, content.hex()], {})


def _save(path: Path) -> DatabaseProgram:
    """Return a program that writes its stdin to `path`, in place of pg_restore."""
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    return DatabaseProgram([sys.executable, "-c", code, str(path)], {})


@pytest.fixture
def restored_url(postgres_server: object) -> Iterator[str]:
    """Yield the URL of an empty database to restore into."""
    with created_database(postgres_server) as url:  # type: ignore[arg-type]
        yield url


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_restored_database_has_the_same_leaderboards(
    service: EnhancedDatabaseService, settings: Settings, restored_url: str, tmp_path: Path, key: bytes | None
) -> None:
    """A restored database has the same leaderboards and accepts writes, with and without encryption."""
    play_game(service)
    path = tmp_path / "backups" / "game.dump"
    size = write_backup(build_dump_command(settings.database_url.get_secret_value()), path, key=key)
    assert size == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"alice" not in path.read_bytes(), "compressed, or encrypted"
    restore_backup(build_restore_command(restored_url), path, key=key)
    there = settings.model_copy(
        update={"database_url": type(settings.database_url)(restored_url), "enable_redis_cache": False}
    )
    with open_service(there) as restored:
        for day in SESSIONS:
            for category in ("daily_returns", "total_value", "quests_completed"):
                expected = service.get_leaderboard(category, day, 50)
                assert restored.get_leaderboard(category, day, 50) == expected
        assert restored.create_user(username="newcomer").username == "newcomer"


def test_a_damaged_backup_changes_nothing(
    service: EnhancedDatabaseService, settings: Settings, restored_url: str, tmp_path: Path
) -> None:
    """Restoring a backup whose last 500 bytes are missing creates no table, with and without encryption."""
    play_game(service)
    for key in (None, KEY):
        path = tmp_path / f"{key is None}.dump"
        write_backup(build_dump_command(settings.database_url.get_secret_value()), path, key=key)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(StackError):
            restore_backup(build_restore_command(restored_url), path, key=key)
        with psycopg2.connect(restored_url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            assert cursor.fetchone() == (0,)


def test_a_failed_dump_leaves_no_file(database_url: str, tmp_path: Path) -> None:
    """If pg_dump fails, no file is left, and the error has pg_dump's message without the password."""
    url = f"{database_url}_missing"
    path = tmp_path / "game.dump"
    with pytest.raises(StackError, match=r"pg_dump failed with status 1: .*does not exist") as raised:
        write_backup(build_dump_command(url), path, key=KEY)
    assert list(tmp_path.iterdir()) == []
    assert parse_dsn(url)["password"] not in str(raised.value)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """If pg_dump is not installed, the error names it. A machine may have only the client library."""
    program = DatabaseProgram([str(tmp_path / "pg_dump")], {})
    with pytest.raises(StackError, match="pg_dump cannot be started: No such file"):
        write_backup(program, tmp_path / "game.dump", key=None)


@given(content=st.binary(max_size=40).map(lambda rest: backup.DUMP_MAGIC + rest), size=st.integers(1, 9))
def test_an_encrypted_dump_is_decrypted_unchanged(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int
) -> None:
    """Decryption returns exactly the bytes of the dump, for every length of the dump and every block size."""
    folder = tmp_path_factory.mktemp("backup")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup, "BLOCK_BYTES", size)
        written = b"".join(backup._encrypt(_split(content, size), KEY))
        (folder / "b").write_bytes(written)
        assert b"".join(backup._open_backup(folder / "b", KEY)) == content


def _split(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@pytest.mark.parametrize("size", [3, 1 << 20], ids=["many-blocks", "one-block"])
def test_every_damage_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A changed byte, a truncated file, swapped blocks and a wrong key are detected."""
    monkeypatch.setattr(backup, "BLOCK_BYTES", size)
    path = tmp_path / "b"
    whole = b"".join(backup._encrypt(_split(b"PGDMP and more", size), KEY))
    path.write_bytes(whole)
    check_backup(path, key=KEY)
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole[:at] for at in range(len(whole))]
    start, block = len(backup.MAGIC) + backup.SALT_BYTES, size + backup.TAG_BYTES
    if size == 3:
        first, second = whole[start : start + block], whole[start + block : start + 2 * block]
        damaged.append(whole[:start] + second + first + whole[start + 2 * block :])
    for content in [*damaged, whole + b"x"]:
        path.write_bytes(content)
        with pytest.raises(StackError, match=r"cannot be decrypted|is not a backup"):
            check_backup(path, key=KEY)
    path.write_bytes(whole)
    with pytest.raises(StackError, match="BACKUP_KEY is not its key"):
        check_backup(path, key=OTHER_KEY)
    with pytest.raises(StackError, match="is encrypted; set BACKUP_KEY"):
        check_backup(path, key=None)


@pytest.mark.parametrize("content", [b"", b"SELECT 1;", b"\0" * 100, b"echo-markets backup 2\n"])
def test_a_file_that_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    """Restoring a file that is not a backup, or a missing file, raises an error."""
    path = tmp_path / "b"
    path.write_bytes(content)
    with pytest.raises(StackError, match="is not a backup"):
        restore_backup(_save(tmp_path / "restored"), path, key=KEY)
    with pytest.raises(StackError, match="cannot be read: No such file"):
        check_backup(tmp_path / "missing", key=KEY)


def test_two_backups_of_one_dump_differ(tmp_path: Path) -> None:
    """Two encrypted backups of the same dump differ after the header, and can be restored."""
    for name in ("a", "b"):
        write_backup(_print(b"PGDMP the same"), tmp_path / name, key=KEY)
    a, b = ((tmp_path / name).read_bytes() for name in ("a", "b"))
    assert a[len(backup.MAGIC) :] != b[len(backup.MAGIC) :]
    restore_backup(_save(tmp_path / "c"), tmp_path / "a", key=KEY)
    assert (tmp_path / "c").read_bytes() == b"PGDMP the same"


@pytest.mark.parametrize("text", ["", "secret", base64.b64encode(b"x" * 31).decode(), "é" * 44])
def test_an_invalid_key_names_the_command_that_makes_one(text: str) -> None:
    """An invalid BACKUP_KEY raises an error with the command that makes a key, and without the value."""
    with pytest.raises(StackError, match="`openssl rand -base64 32` makes one") as raised:
        parse_key(text)
    assert not text or text not in str(raised.value)


def test_a_key_is_base64() -> None:
    """`parse_key` decodes the base64 text of 32 bytes, as `openssl rand -base64 32` prints it."""
    assert parse_key(base64.b64encode(KEY).decode()) == KEY
