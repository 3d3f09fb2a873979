"""Wrong use of the command line: one line that names the mistake, and exit status 2."""

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
    """Name servers that do not listen: a mistake is found before a connection is opened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://echo:s3cr3t@127.0.0.1:{find_free_port()}/echo")
    monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(arguments: str) -> None:
    """The line names the mistake, and nothing was changed."""
    ended = CliRunner().invoke(main, arguments.split())
    assert ended.exit_code == WRONG_INPUT, ended.output
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert MISTAKES[arguments] in line


def test_every_command_has_a_help() -> None:
    """Every command prints its help, also without its arguments."""
    commands = ["", *main.commands, *(f"stack {name}" for name in stack.commands)]
    for command in commands:
        ended = CliRunner().invoke(main, [*command.split(), "--help"])
        assert (ended.exit_code, ended.stdout.startswith("Usage: ")) == (0, True), command


@pytest.mark.parametrize("command", ["migrate", "migrate status", "migrate down", "stack load"])
def test_a_database_that_does_not_answer_is_one_line_and_status_1(command: str) -> None:
    """The line has the server's message and no password."""
    ended = CliRunner().invoke(main, command.split())
    assert ended.exit_code == FAILED
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Connection refused" in line
    assert "s3cr3t" not in line


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with the usual exit status 130."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("core.cli.Migrator", interrupt)
    ended = CliRunner().invoke(main, ["migrate"])
    assert (ended.exit_code, ended.stderr) == (130, "error: interrupted\n")


@pytest.fixture
def _files_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the files in the working folder again, which tests leave out."""
    monkeypatch.setitem(Settings.model_config, "env_file", (Path(".local/stack.env"), ".env"))


@pytest.mark.usefixtures("_files_of_settings")
def test_a_file_of_settings_that_is_no_text_is_one_line() -> None:
    """A file in another encoding is a wrong setting, and its content is not shown."""
    Path(".env").write_bytes(b"DATABASE_URL=\xff\xfes3cr3t\n")
    ended = CliRunner().invoke(main, ["migrate"])
    assert ended.exit_code == WRONG_INPUT
    [line] = ended.stderr.splitlines()
    assert ".env, is not UTF-8 text" in line
    assert "s3cr3t" not in line


@pytest.mark.usefixtures("_files_of_settings")
def test_a_file_of_settings_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of another user's stack cannot be read."""

    def refuse(path: Path, *_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    ended = CliRunner().invoke(main, ["migrate"])
    assert ended.exit_code == WRONG_INPUT
    assert ended.stderr == (
        "error: the file of settings .local/stack.env cannot be read: Permission denied;"
        " run this as its owner, or from another folder\n"
    )
