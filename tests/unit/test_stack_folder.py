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
    folder.record({"METRICS_DIR": value, "MODE": "local"})
    assert folder.recorded() == {"METRICS_DIR": value, "MODE": "local"}


def test_remembers_nothing_before_the_first_start(tmp_path: Path) -> None:
    """Without a record the stack counts as never started."""
    assert StackFolder(tmp_path).recorded() == {}


def test_second_command_is_refused(folder: StackFolder) -> None:
    """Two commands at once would start everything twice."""
    with folder.lock(), pytest.raises(StackError, match="another command"), StackFolder(folder.root).lock():
        pass


def test_lock_is_free_again(folder: StackFolder) -> None:
    """A command that failed does not lock the next one out."""
    with pytest.raises(ZeroDivisionError), folder.lock():
        raise ZeroDivisionError
    with folder.lock():
        pass


def test_socket_of_a_long_path_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unix socket's path is limited, a checkout's is not."""
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
    with pytest.raises(StackError, match="belongs to somebody else"):
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
    """Nothing is left, and the size is known before."""
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
