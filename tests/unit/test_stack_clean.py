"""`echo-markets stack clean`: what a person is asked before the data goes."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from core.cli import main
from core.stack.folder import StackFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    """A checkout that has data of a stack."""
    (tmp_path / "compose.yaml").touch()
    monkeypatch.setattr("core.stack.commands.ROOT", tmp_path)
    folder = StackFolder(tmp_path)
    folder.create()
    (folder.servers / "data").write_bytes(b"x" * 2_000_000)
    return folder


def test_a_script_is_not_asked(folder: StackFolder) -> None:
    """Without a terminal the command removes everything."""
    ended = CliRunner().invoke(main, ["stack", "clean"])
    assert (ended.exit_code, "2.0 MB" in ended.output) == (0, True)
    assert not folder.path.exists()


@pytest.mark.parametrize("answer", ["n", "y"])
def test_a_person_is_asked(folder: StackFolder, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """The question names the folder and how much is in it; any other answer than yes keeps it."""
    monkeypatch.setattr("core.stack.commands.is_interactive", lambda: True)
    ended = CliRunner().invoke(main, ["stack", "clean"], input=f"{answer}\n")
    contents = "database, cache, metrics, logs and the keys of encrypted e-mail addresses"
    assert f"remove {folder.path}: {contents}, 2.0 MB? [y/N]" in ended.stderr
    assert folder.path.exists() == (answer == "n")
    assert (ended.exit_code, "error: nothing was removed" in ended.stderr) == (
        int(answer == "n"),
        answer == "n",
    )


def test_an_option_answers_the_question(folder: StackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --yes there is no question."""
    monkeypatch.setattr("core.stack.commands.is_interactive", lambda: True)
    ended = CliRunner().invoke(main, ["stack", "clean", "--yes"])
    assert (ended.exit_code, "[y/N]" in ended.output) == (0, False)
    assert not folder.path.exists()


def test_there_is_no_question_when_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout whose stack was never started has no data."""
    (tmp_path / "compose.yaml").touch()
    monkeypatch.setattr("core.stack.commands.ROOT", tmp_path)
    monkeypatch.setattr("core.stack.commands.is_interactive", lambda: True)
    ended = CliRunner().invoke(main, ["stack", "clean"])
    assert (ended.exit_code, ended.stdout.strip()) == (0, "nothing to remove")
