"""DATABASE_URL names a database that is not the stack's: the stack's other settings are then not used."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from core.errors import SettingsError
from core.settings import RoleSettings, Settings
from core.settings.secret_files import list_secrets
from core.settings.stack_identity import describe_database
from core.stack.embedded_servers import PostgresFiles, ValkeyFiles
from core.stack.folder import StackFolder
from core.stack.permissions import write_private
from core.stack.programs import Deployment
from core.stack.settings import StackSettings, describe_other_database, refuse_other_secrets
from tests.unit.test_stack_folder import RECORD

STACK_URL = "postgresql://postgres:pw@127.0.0.1:5433/echo_markets"
OTHER_URL = "postgresql://alice:s3cr3t@db.example/game"
RECORDED = {
    **RECORD,
    "DATABASE_URL": STACK_URL,
    "REDIS_URL": "redis://127.0.0.1:6380/0",
    "STACK_NAME": "main-1a2b",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackFolder:
    """Return the state folder of a running stack; the checkout is the working directory."""
    monkeypatch.setitem(Settings.model_config, "env_file", (Path(".local/stack.env"), ".env"))
    monkeypatch.chdir(tmp_path)
    folder = StackFolder(tmp_path)
    folder.create()
    folder.record(RECORDED)
    return folder


def get_redis_url(settings: Settings) -> str:
    """Return the Redis URL of the settings in plain text."""
    return settings.redis_url.get_secret_value()


def test_the_running_stack_is_found() -> None:
    """If the user sets no DATABASE_URL, the settings are those that the running stack recorded."""
    settings = Settings.load()
    assert settings.database_url.get_secret_value() == STACK_URL
    assert (get_redis_url(settings), settings.stack_name) == (RECORDED["REDIS_URL"], "main-1a2b")


@pytest.mark.parametrize("place", ["environment", ".env", "argument"])
def test_another_database_does_not_get_the_stacks_redis(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the DATABASE_URL of another database, the stack's recorded Redis and name are not used."""
    arguments = {}
    if place == "environment":
        monkeypatch.setenv("database_url", OTHER_URL)
    elif place == ".env":
        Path(".env").write_text(f"DATABASE_URL={OTHER_URL}\nREDIS_URL=redis://cache.example/0\n", "utf-8")
    else:
        arguments["database_url"] = SecretStr(OTHER_URL)
    settings = Settings.load(**arguments)
    assert settings.database_url.get_secret_value() == OTHER_URL
    assert settings.stack_name is None
    expected = "redis://cache.example/0" if place == ".env" else Settings.model_fields["redis_url"].default
    assert get_redis_url(settings) == getattr(expected, "get_secret_value", lambda: expected)()


def test_another_spelling_of_the_stacks_database(
    monkeypatch: pytest.MonkeyPatch, folder: StackFolder
) -> None:
    """With a DATABASE_URL that names the stack's database as `localhost`, the recorded Redis is used."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://bob:pw@localhost:5433/echo_markets")
    assert get_redis_url(Settings.load()) == RECORDED["REDIS_URL"]
    assert describe_other_database(folder.root, folder.recorded()) is None


@pytest.mark.parametrize("place", ["the environment", ".env"])
def test_up_names_both_databases(place: str, folder: StackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names both databases, where the user's DATABASE_URL is set, and how to remove it."""
    if place == ".env":
        (folder.root / ".env").write_text(f"DATABASE_URL={OTHER_URL}\n", "utf-8")
    else:
        monkeypatch.setenv("DATABASE_URL", OTHER_URL)
    line = describe_other_database(folder.root, folder.recorded())
    assert line is not None
    assert "\n" not in line
    assert "this stack uses the database 127.0.0.1:5433/echo_markets" in line
    assert f"DATABASE_URL in {place} is db.example:5432/game" in line
    assert ("unset it" if place == "the environment" else "remove it there") in line
    assert "s3cr3t" not in line


def test_up_has_no_warning_without_another_database(folder: StackFolder) -> None:
    """If DATABASE_URL is unset or invalid, `make up` prints no line about another database."""
    assert describe_other_database(folder.root, folder.recorded()) is None
    (folder.root / ".env").write_text("DATABASE_URL=mysql://nonsense\n", "utf-8")
    assert describe_other_database(folder.root, folder.recorded()) is None


@pytest.fixture
def recorded(folder: StackFolder) -> dict[str, str]:
    """Return the settings that `make up` records for a stack without containers; its secret files exist."""
    deployment = Deployment(
        settings=StackSettings.load_for(folder.root),
        folder=folder,
        postgres=PostgresFiles(data=folder.servers, password="pw", user=None),
        valkey=ValkeyFiles(configuration=folder.servers, password="pw", user=None),
    )
    recorded = deployment.environment()
    for name, path in recorded.items():
        if name.endswith("PASSWORD_FILE"):
            write_private(Path(path), f"of {Path(path).name}")
    return recorded


# Each secret as a variable, and as a file (`X_FILE`).
SECRETS = [
    (name, is_file)
    for name in sorted({name.upper() for kind in (Settings, RoleSettings) for name in list_secrets(kind)})
    for is_file in (False, True)
]


@pytest.mark.parametrize("place", ["in the environment", "in .env"])
@pytest.mark.parametrize(("name", "is_file"), SECRETS)
def test_up_refuses_a_changed_secret(
    folder: StackFolder,
    recorded: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    name: str,
    is_file: bool,
    place: str,
) -> None:
    """The error has the variable, where it is set, the file with the stack's secret, and the remedy."""
    other, variable = "s3cr3t of another", f"{name}_FILE" if is_file else name
    write_private(tmp_path / "other", other)
    value = str(tmp_path / "other") if is_file else other
    if place == "in .env":
        (folder.root / ".env").write_text(f"{variable}='{value}'\n", "utf-8")
    else:
        monkeypatch.setenv(variable, value)
    own = recorded.get(f"{name}_FILE", str(folder.stack_env) if name in recorded else None)
    if name == "DATABASE_URL" or own is None:
        # DATABASE_URL only causes a warning; secrets that the stack does not record are not compared
        refuse_other_secrets(folder.root, recorded)
        return
    with pytest.raises(SettingsError) as refused:
        refuse_other_secrets(folder.root, recorded)
    remedy = "remove it there" if place == "in .env" else "unset it"
    expected = f"{variable} {place} is another one than this stack's, which is in {own}; {remedy}"
    assert str(refused.value) == expected


def test_up_accepts_its_own_secrets(
    folder: StackFolder, recorded: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable with the same secret as the stack's record is accepted, as a file or as a value."""
    for name, value in recorded.items():
        monkeypatch.setenv(name, value)
    refuse_other_secrets(folder.root, recorded)
    monkeypatch.delenv("DATABASE_PASSWORD_FILE")
    monkeypatch.setenv("DATABASE_PASSWORD", "of app.password")
    refuse_other_secrets(folder.root, recorded)


def test_secrets_of_another_database_are_not_compared(
    folder: StackFolder, recorded: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the DATABASE_URL of another database, another DATABASE_PASSWORD is accepted too."""
    monkeypatch.setenv("DATABASE_URL", OTHER_URL)
    monkeypatch.setenv("DATABASE_PASSWORD", "s3cr3t")
    refuse_other_secrets(folder.root, recorded)


def test_migrations_of_the_stack_go_to_its_own_database(recorded: dict[str, str]) -> None:
    """The recorded DATABASE_URL, DIRECT_URL and ADMIN_URL name the same server and database."""
    places = {describe_database(recorded[name]) for name in ("DATABASE_URL", "DIRECT_URL", "ADMIN_URL")}
    assert len(places) == 1
    assert recorded["STACK_NAME"] == "main-1a2b"
