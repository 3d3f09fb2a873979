"""Errors of the command line: one line on standard error, and exit status 1, 2 or 130."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from core.cli import main
from core.settings import Settings
from core.stack.commands import stack
from core.stack.ports import find_free_port

WRONG_INPUT = 2
FAILED = 1

MISTAKES = {
    "--nosuch": "no such option '--nosuch'",
    "nosuch": "no such command 'nosuch'",
    "migrate sideways": "'sideways' is not one of 'up', 'down', 'status'",
    "migrate up now": "got unexpected extra argument (now)",
    "migrate up --to 0001": "--to is for down only",
    "migrate up --drop-rows": "--drop-rows is for down only",
    "import-prices": "name the FILE to load, or give --demo",
    "import-prices days.csv --demo": "name the FILE to load, or give --demo",
    "import-prices days.csv more.csv": "days.csv does not exist",
    "import-prices days.csv --split AAPL": "--split is 'AAPL'; give SYMBOL",
    "import-prices missing.csv": "missing.csv does not exist",
    "import-prices .": ". holds no table",
    "seed --players many": "'many' is not a valid integer",
    "seed --players 0": "players is 0; give a whole number from 1 to 100000",
    "seed --sessions 0": "sessions is 0; give a whole number from 1",
    "seed --seed -1": "seed is -1; give a whole number from 0",
    "seed --nosuch": "no such option '--nosuch'",
    "maintain --keep-days x": "'x' is not a valid integer",
    "maintain --keep-days -1": "give at least 1 and at most 36500",
    "maintain --keep-days 99999999999": "give at least 1 and at most 36500",
    "health now": "got unexpected extra argument (now)",
    "stats --json": "no such option '--json'",
    "self-test all": "got unexpected extra argument (all)",
    "simulate 5": "got unexpected extra argument (5)",
    "stack nosuch": "no such command 'nosuch'",
    "stack run": "missing argument",
    "stack drill": "missing argument",
    "stack drill nosuch": "'nosuch' is not one of",
    "stack drill redis --seconds 0": "0.0 is not in the range",
    "stack logs a b": "got unexpected extra argument (b)",
}


@pytest.fixture(autouse=True)
def _unreachable_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set a DATABASE_URL without a server: wrong arguments must be refused before a connection is opened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://echo:s3cr3t@127.0.0.1:{find_free_port()}/echo")
    monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")


@pytest.mark.parametrize("arguments", MISTAKES)
def test_wrong_arguments_are_one_line_and_status_2(arguments: str) -> None:
    """Wrong arguments end the command with status 2 and a line that names the mistake."""
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == WRONG_INPUT, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert MISTAKES[arguments] in line


def test_every_command_prints_its_help() -> None:
    """`--help` prints the usage of every command, also without its required arguments."""
    commands = ["", *main.commands, *(f"stack {name}" for name in stack.commands)]
    for command in commands:
        result = CliRunner().invoke(main, [*command.split(), "--help"])
        assert (result.exit_code, result.stdout.startswith("Usage: ")) == (0, True), command


@pytest.mark.parametrize("command", ["migrate", "migrate status", "migrate down", "stack load"])
def test_a_database_that_does_not_answer_is_one_line_and_status_1(command: str) -> None:
    """If the database does not answer, the command ends with status 1 and a line without the password."""
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == FAILED
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Connection refused" in line
    assert "s3cr3t" not in line


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with exit status 130 and one line."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("core.cli.Migrator", interrupt)
    result = CliRunner().invoke(main, ["migrate"])
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")


@pytest.fixture
def _settings_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `Settings` read the files in the working folder, which other tests do not read."""
    monkeypatch.setitem(Settings.model_config, "env_file", (Path(".local/stack.env"), ".env"))


@pytest.mark.usefixtures("_settings_files")
def test_a_settings_file_that_is_no_text_is_one_line() -> None:
    """If .env is not UTF-8 text, the command ends with status 2 and a line without its content."""
    Path(".env").write_bytes(b"DATABASE_URL=\xff\xfes3cr3t\n")
    result = CliRunner().invoke(main, ["migrate"])
    assert result.exit_code == WRONG_INPUT
    [line] = result.stderr.splitlines()
    assert ".env, is not UTF-8 text" in line
    assert "s3cr3t" not in line


@pytest.mark.usefixtures("_settings_files")
def test_an_unreadable_settings_file_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a settings file cannot be read, the command ends with status 2 and a line with the remedy."""

    def refuse(path: Path, *_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    result = CliRunner().invoke(main, ["migrate"])
    assert result.exit_code == WRONG_INPUT
    assert result.stderr == (
        "error: the file of settings .local/stack.env cannot be read: Permission denied;"
        " run this as its owner, or from another folder\n"
    )
