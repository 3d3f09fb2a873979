"""The folder with the stack's state: its permissions, the recorded settings, locks, and generated secrets."""

import re
import shutil
import stat
from pathlib import Path

import pytest

from core.encryption import Keyring
from core.errors import StackError
from core.settings.stack_identity import NAME_PATTERN
from core.stack.folder import SOCKET_PATH_LIMIT, StackFolder
from core.stack.permissions import load_password, write_private
from core.stack.stack_env import build_environment

RECORD = {
    "MODE": "local",
    "STACK_NAME": "checkout-1a2b3c",
    "EXPORTER_HOST": "127.0.0.1",
    "DASHBOARD_HOST": "127.0.0.1",
    "DATABASE_URL": "postgresql://echo_markets_app@127.0.0.1:5433/echo_markets",
    "POSTGRES_PORT": "5433",
    "VALKEY_PORT": "6380",
    "EXPORTER_PORT": "9100",
    "DASHBOARD_PORT": "8501",
}


def read_mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    """Return a created stack folder; long socket paths get a temporary folder in `tmp_path`."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = StackFolder(tmp_path)
    folder.create()
    return folder


def test_folder_is_private(folder: StackFolder) -> None:
    """Only the owner can list the folder and read the recorded passwords."""
    folder.record({"REDIS_PASSWORD": "secret"})
    assert (read_mode(folder.path), read_mode(folder.stack_env)) == (0o700, 0o600)


@pytest.mark.parametrize(
    "value", ["plain", "with space", "qu'ote", 'double"', "back\\slash", "#hash", "${HOME}"]
)
def test_any_value_is_recorded(folder: StackFolder, value: str) -> None:
    """A recorded value is read back unchanged, also with quotes, backslashes, # and $."""
    folder.record({**RECORD, "METRICS_DIR": value})
    assert folder.recorded() == {**RECORD, "METRICS_DIR": value}


def test_nothing_is_recorded_before_the_first_start(tmp_path: Path) -> None:
    """`recorded` returns an empty dict for a stack that was never started."""
    assert StackFolder(tmp_path).recorded() == {}


DAMAGED = {
    "nothing": b"",
    "no UTF-8": b"\xff\xfe\x00junk",
    "text": b"=== junk ===\n{}\n",
    "zeros": bytes(100),
}
INVALID = {
    "MODE": "podman",
    "EXPORTER_PORT": "80a",
    "VALKEY_PORT": "70000",
    "DATABASE_URL": "mysql://localhost/",
    "STACK_NAME": "",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_one_line(folder: StackFolder, content: bytes) -> None:
    """The error about a damaged record is one line with the file and the remedy."""
    folder.stack_env.write_bytes(content)
    with pytest.raises(StackError, match=r"stack\.env is damaged: .*`make down` stops what runs") as caught:
        folder.recorded()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), INVALID.items())
def test_an_invalid_recorded_value_is_refused(folder: StackFolder, name: str, value: str) -> None:
    """A record with an invalid value is refused, and the error names the variable."""
    folder.record({**RECORD, name: value})
    with pytest.raises(StackError, match=f"damaged: {name} is "):
        folder.recorded()


def test_a_folder_in_the_place_of_the_record_is_refused(folder: StackFolder) -> None:
    """A folder named stack.env is refused on reading, and `forget_record` does not delete it."""
    folder.stack_env.mkdir()
    with pytest.raises(StackError, match="is damaged"):
        folder.recorded()
    with pytest.raises(StackError, match="is a folder; remove it"):
        folder.forget_record()


@pytest.mark.parametrize("name", ["metrics", "run", "log", "servers", "secrets"])
def test_a_file_in_the_place_of_a_folder_is_refused(folder: StackFolder, name: str) -> None:
    """`create` refuses a file that has the name of one of its folders."""
    (folder.path / name).rmdir()
    (folder.path / name).touch()
    with pytest.raises(StackError, match=f"{folder.path / name} is no folder; remove or rename it"):
        folder.create()


def test_a_file_named_local_is_refused(tmp_path: Path) -> None:
    """`create` refuses a file that has the name of the state folder, `.local`."""
    (tmp_path / ".local").touch()
    with pytest.raises(StackError, match="is no folder"):
        StackFolder(tmp_path).create()


def test_a_full_disk_is_reported(folder: StackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """`find_disk_problem` reports a full disk, which health checks of the servers do not notice."""
    assert folder.find_disk_problem() is None
    monkeypatch.setattr("core.stack.folder.MIN_FREE_BYTES", 10**18)
    assert re.match(r"\d+ MB are free where .*; make room", folder.find_disk_problem() or "")


def test_recorded_secrets_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded X or X_FILE replaces both in the environment, as X and X_FILE together are refused."""
    monkeypatch.setenv("REDIS_PASSWORD", "of another server")
    monkeypatch.setenv("DIRECT_PASSWORD_FILE", "/of/another/server")
    record = {"REDIS_PASSWORD_FILE": "/secrets/redis", "DIRECT_PASSWORD": "secret"}
    environment = build_environment(record)
    assert environment.items() >= record.items()
    assert not {"REDIS_PASSWORD", "DIRECT_PASSWORD_FILE"} & environment.keys()


def test_secrets_are_private(folder: StackFolder) -> None:
    """`create` sets the secrets folder to 0700 again; a password file has mode 0600."""
    load_password(folder.secrets / "app.password")
    folder.secrets.chmod(0o755)
    folder.create()
    assert read_mode(folder.secrets) == 0o700
    assert read_mode(folder.secrets / "app.password") == 0o600


def test_second_command_is_refused(folder: StackFolder) -> None:
    """While one command holds the lock, a second command is refused; the error names `up` and `drill`."""
    refused = pytest.raises(StackError, match="another command, such as `up` or `drill`, is using this stack")
    with folder.lock(), refused, StackFolder(folder.root).lock():
        pass


def test_lock_is_released_after_an_error(folder: StackFolder) -> None:
    """A command that raises releases the lock."""
    with pytest.raises(ZeroDivisionError), folder.lock():
        raise ZeroDivisionError
    with folder.lock():
        pass


def test_socket_of_a_long_path_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the checkout's path is too long for a unix socket, the socket is in the temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp/t")
    folder = StackFolder(tmp_path / ("x" * SOCKET_PATH_LIMIT))
    other = StackFolder(tmp_path / ("y" * SOCKET_PATH_LIMIT))
    assert len(str(folder.socket)) <= SOCKET_PATH_LIMIT
    assert folder.socket != other.socket


def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket folder that another user has created in the shared temporary folder is refused."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("core.stack.folder.SOCKET_PATH_LIMIT", 1)
    folder = StackFolder(tmp_path)
    folder.socket.parent.symlink_to(tmp_path)
    with pytest.raises(StackError, match="belongs to another user"):
        folder.create()


def test_stack_has_a_unique_name(folder: StackFolder, tmp_path: Path) -> None:
    """The name stays after a restart; a copy of the folder, and a folder after `clean`, get other names."""
    name = folder.load_stack_name()
    assert re.fullmatch(NAME_PATTERN, name)
    assert StackFolder(folder.root).load_stack_name() == name
    copy = (
        tmp_path / "a copy, with everything in it, whose name is too long for the name of a stack to have it"
    )
    shutil.copytree(folder.root / ".local", copy / ".local")
    copied = StackFolder(copy).load_stack_name()
    assert copied != name
    assert re.fullmatch(NAME_PATTERN, copied)
    folder.remove()
    folder.create()
    assert folder.load_stack_name() != name


def test_remove_deletes_everything(folder: StackFolder) -> None:
    """`size_bytes` is above 0 for a folder with recorded settings, and `remove` deletes the folder."""
    folder.record({"MODE": "local"})
    assert folder.size_bytes() > 0
    folder.remove()
    assert not folder.path.exists()


def test_rewritten_private_file_is_private(tmp_path: Path) -> None:
    """`write_private` sets the mode to 0600, also for an existing file with mode 0644."""
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(encoding="utf-8"), read_mode(path)) == ("new", 0o600)


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    """An empty password file is refused, because a server with an empty password would accept anybody."""
    (tmp_path / "password").write_text("\n", encoding="utf-8")
    with pytest.raises(StackError, match="is empty"):
        load_password(tmp_path / "password")


def test_password_is_generated_once(tmp_path: Path) -> None:
    """`load_password` returns the same password for the same file, and another password for another file."""
    first = load_password(tmp_path / "alice")
    assert load_password(tmp_path / "alice") == first
    assert load_password(tmp_path / "bob") != first


def test_encryption_keys_are_created_once(folder: StackFolder) -> None:
    """The key file is private and never replaced: with another key, stored addresses are unreadable."""
    path = folder.create_encryption_keys()
    assert (read_mode(path), read_mode(path.parent)) == (0o600, 0o700)
    text = path.read_text(encoding="utf-8")
    assert len(Keyring.parse(text).keys) == 1
    assert folder.create_encryption_keys().read_text(encoding="utf-8") == text
