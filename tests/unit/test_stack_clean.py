"""The confirmation of `echo-markets stack clean` before it deletes the data."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from core.cli import main
from core.stack.folder import StackFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    """Return the folder of a stack that has data."""
    (tmp_path / "compose.yaml").touch()
    monkeypatch.setattr("core.stack.commands.ROOT", tmp_path)
    folder = StackFolder(tmp_path)
    folder.create()
    (folder.servers / "data").write_bytes(b"x" * 2_000_000)
    return folder


def test_clean_does_not_ask_without_a_terminal(folder: StackFolder) -> None:
    """Without a terminal, the command deletes the data and does not ask."""
    ended = CliRunner().invoke(main, ["stack", "clean"])
    assert (ended.exit_code, "2.0 MB" in ended.output) == (0, True)
    assert not folder.path.exists()


@pytest.mark.parametrize("answer", ["n", "y"])
def test_clean_asks_on_a_terminal(folder: StackFolder, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """The question names the folder, its contents and its size; only the answer y deletes the data."""
    monkeypatch.setattr("core.stack.commands.is_interactive", lambda: True)
    ended = CliRunner().invoke(main, ["stack", "clean"], input=f"{answer}\n")
    contents = "database, cache, metrics, logs and the keys of encrypted e-mail addresses"
    assert f"remove {folder.path}: {contents}, 2.0 MB? [y/N]" in ended.stderr
    assert folder.path.exists() == (answer == "n")
    assert (ended.exit_code, "error: nothing was removed" in ended.stderr) == (
        int(answer == "n"),
        answer == "n",
    )


def test_clean_does_not_ask_with_yes(folder: StackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --yes, the command deletes the data and does not ask."""
    monkeypatch.setattr("core.stack.commands.is_interactive", lambda: True)
    ended = CliRunner().invoke(main, ["stack", "clean", "--yes"])
    assert (ended.exit_code, "[y/N]" in ended.output) == (0, False)
    assert not folder.path.exists()


def test_clean_does_not_ask_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the stack was never started, the command does not ask and prints that nothing is removed."""
    (tmp_path / "compose.yaml").touch()
    monkeypatch.setattr("core.stack.commands.ROOT", tmp_path)
    monkeypatch.setattr("core.stack.commands.is_interactive", lambda: True)
    ended = CliRunner().invoke(main, ["stack", "clean"])
    assert (ended.exit_code, ended.stdout.strip()) == (0, "nothing to remove")
