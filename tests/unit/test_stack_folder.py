"""The folder that holds the stack's state: who can read it, and what it remembers."""

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


def mode_of(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    """A folder that exists, and a temporary folder of its own for the socket of a long path."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = StackFolder(tmp_path)
    folder.create()
    return folder


def test_is_for_its_owner_only(folder: StackFolder) -> None:
    """Nobody else can list the folder or read the passwords in it."""
    folder.record({"REDIS_PASSWORD": "secret"})
    assert (mode_of(folder.path), mode_of(folder.stack_env)) == (0o700, 0o600)


@pytest.mark.parametrize(
    "value", ["plain", "with space", "qu'ote", 'double"', "back\\slash", "#hash", "${HOME}"]
)
def test_remembers_any_value(folder: StackFolder, value: str) -> None:
    """A recorded value is read back unchanged, whatever characters it has."""
    folder.record({**RECORD, "METRICS_DIR": value})
    assert folder.recorded() == {**RECORD, "METRICS_DIR": value}


def test_remembers_nothing_before_the_first_start(tmp_path: Path) -> None:
    """Without a record the stack counts as never started."""
    assert StackFolder(tmp_path).recorded() == {}


JUNK = {
    "nothing": b"",
    "no UTF-8": b"\xff\xfe\x00junk",
    "text": b"=== junk ===\n{}\n",
    "zeros": bytes(100),
}
WRONG = {
    "MODE": "podman",
    "EXPORTER_PORT": "80a",
    "VALKEY_PORT": "70000",
    "DATABASE_URL": "mysql://localhost/",
    "STACK_NAME": "",
}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_a_damaged_record_is_one_line(folder: StackFolder, content: bytes) -> None:
    """It names the file and what to do."""
    folder.stack_env.write_bytes(content)
    with pytest.raises(StackError, match=r"stack\.env is damaged: .*`make down` stops what runs") as caught:
        folder.recorded()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), WRONG.items())
def test_a_wrong_value_damages_the_record(folder: StackFolder, name: str, value: str) -> None:
    """The line names the variable."""
    folder.record({**RECORD, name: value})
    with pytest.raises(StackError, match=f"damaged: {name} is "):
        folder.recorded()


def test_a_folder_is_no_record(folder: StackFolder) -> None:
    """It cannot be removed as a file either."""
    folder.stack_env.mkdir()
    with pytest.raises(StackError, match="is damaged"):
        folder.recorded()
    with pytest.raises(StackError, match="is a folder; remove it"):
        folder.forget_record()


@pytest.mark.parametrize("name", ["metrics", "run", "log", "servers", "secrets"])
def test_a_file_in_the_place_of_a_folder_is_named(folder: StackFolder, name: str) -> None:
    """This holds for each of the folders."""
    (folder.path / name).rmdir()
    (folder.path / name).touch()
    with pytest.raises(StackError, match=f"{folder.path / name} is no folder; remove or rename it"):
        folder.create()


def test_a_file_in_the_place_of_all_folders_is_named(tmp_path: Path) -> None:
    """`.local` itself is a file."""
    (tmp_path / ".local").touch()
    with pytest.raises(StackError, match="is no folder"):
        StackFolder(tmp_path).create()


def test_a_full_disk_is_a_problem(folder: StackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers still answer, so a connection does not show the problem."""
    assert folder.find_disk_problem() is None
    monkeypatch.setattr("core.stack.folder.MIN_FREE_BYTES", 10**18)
    assert re.match(r"\d+ MB are free where .*; make room", folder.find_disk_problem() or "")


def test_the_record_replaces_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret may be in the variable or in its file; both together would be an error."""
    monkeypatch.setenv("REDIS_PASSWORD", "of another server")
    monkeypatch.setenv("DIRECT_PASSWORD_FILE", "/of/another/server")
    record = {"REDIS_PASSWORD_FILE": "/secrets/redis", "DIRECT_PASSWORD": "secret"}
    environment = build_environment(record)
    assert environment.items() >= record.items()
    assert not {"REDIS_PASSWORD", "DIRECT_PASSWORD_FILE"} & environment.keys()


def test_secrets_are_for_their_owner_only(folder: StackFolder) -> None:
    """The folder is closed again when somebody has opened it."""
    load_password(folder.secrets / "app.password")
    folder.secrets.chmod(0o755)
    folder.create()
    assert mode_of(folder.secrets) == 0o700
    assert mode_of(folder.secrets / "app.password") == 0o600


def test_second_command_is_refused(folder: StackFolder) -> None:
    """The refusal is also true during a drill, which neither starts nor stops the stack."""
    refused = pytest.raises(StackError, match="another command, such as `up` or `drill`, is using this stack")
    with folder.lock(), refused, StackFolder(folder.root).lock():
        pass


def test_lock_is_free_again(folder: StackFolder) -> None:
    """A command that failed does not lock the next one out."""
    with pytest.raises(ZeroDivisionError), folder.lock():
        raise ZeroDivisionError
    with folder.lock():
        pass


def test_socket_of_a_long_path_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a unix socket has a limit, and a checkout may be deeper."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp/t")
    folder = StackFolder(tmp_path / ("x" * SOCKET_PATH_LIMIT))
    other = StackFolder(tmp_path / ("y" * SOCKET_PATH_LIMIT))
    assert len(str(folder.socket)) <= SOCKET_PATH_LIMIT
    assert folder.socket != other.socket


def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the shared temporary folder another user may have created it first."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("core.stack.folder.SOCKET_PATH_LIMIT", 1)
    folder = StackFolder(tmp_path)
    folder.socket.parent.symlink_to(tmp_path)
    with pytest.raises(StackError, match="belongs to another user"):
        folder.create()


def test_stack_has_a_name_of_its_own(folder: StackFolder, tmp_path: Path) -> None:
    """It is the same after a restart, and another one for a copy of the folder and after `clean`."""
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
    """The size of what is deleted is known before."""
    folder.record({"MODE": "local"})
    assert folder.size_bytes() > 0
    folder.remove()
    assert not folder.path.exists()


def test_private_file_is_never_open(tmp_path: Path) -> None:
    """A rewritten file does not keep permissions that were too wide."""
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(encoding="utf-8"), mode_of(path)) == ("new", 0o600)


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    """A server with it would let everybody in."""
    (tmp_path / "password").write_text("\n", encoding="utf-8")
    with pytest.raises(StackError, match="is empty"):
        load_password(tmp_path / "password")


def test_password_is_generated_once(tmp_path: Path) -> None:
    """A restarted server has the same password, another server another one."""
    first = load_password(tmp_path / "alice")
    assert load_password(tmp_path / "alice") == first
    assert load_password(tmp_path / "bob") != first


def test_a_key_is_made_once_and_for_its_owner_only(folder: StackFolder) -> None:
    """Another key would make every stored address unreadable."""
    path = folder.create_encryption_keys()
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
    text = path.read_text(encoding="utf-8")
    assert len(Keyring.parse(text).keys) == 1
    assert folder.create_encryption_keys().read_text(encoding="utf-8") == text
