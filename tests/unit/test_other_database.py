"""DATABASE_URL names another database than the stack's: nothing is mixed, and `make up` says so."""

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
    """A checkout whose stack is up, as the working folder."""
    monkeypatch.setitem(Settings.model_config, "env_file", (Path(".local/stack.env"), ".env"))
    monkeypatch.chdir(tmp_path)
    folder = StackFolder(tmp_path)
    folder.create()
    folder.record(RECORDED)
    return folder


def redis_of(settings: Settings) -> str:
    """Return the Redis that settings name."""
    return settings.redis_url.get_secret_value()


def test_the_running_stack_is_found() -> None:
    """Without another DATABASE_URL, everything in the record is used."""
    settings = Settings.load()
    assert settings.database_url.get_secret_value() == STACK_URL
    assert (redis_of(settings), settings.stack_name) == (RECORDED["REDIS_URL"], "main-1a2b")


@pytest.mark.parametrize("place", ["environment", ".env", "argument"])
def test_another_database_is_not_mixed_with_the_stack(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack's Redis and name belong to its own database alone."""
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
    assert redis_of(settings) == getattr(expected, "get_secret_value", lambda: expected)()


def test_the_stacks_own_database_may_be_named(monkeypatch: pytest.MonkeyPatch, folder: StackFolder) -> None:
    """In any spelling: the rest of the record is used, and there is no note."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://bob:pw@localhost:5433/echo_markets")
    assert redis_of(Settings.load()) == RECORDED["REDIS_URL"]
    assert describe_other_database(folder.root, folder.recorded()) is None


@pytest.mark.parametrize("place", ["the environment", ".env"])
def test_up_names_both_databases(place: str, folder: StackFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names both databases, where the other comes from, and how to make them the same."""
    if place == ".env":
        (folder.root / ".env").write_text(f"DATABASE_URL={OTHER_URL}\n", "utf-8")
    else:
        monkeypatch.setenv("DATABASE_URL", OTHER_URL)
    note = describe_other_database(folder.root, folder.recorded())
    assert note is not None
    assert "\n" not in note
    assert "this stack uses the database 127.0.0.1:5433/echo_markets" in note
    assert f"DATABASE_URL in {place} is db.example:5432/game" in note
    assert ("unset it" if place == "the environment" else "remove it there") in note
    assert "s3cr3t" not in note


def test_up_says_nothing_without_another_database(folder: StackFolder) -> None:
    """DATABASE_URL is unset, or its value is wrong."""
    assert describe_other_database(folder.root, folder.recorded()) is None
    (folder.root / ".env").write_text("DATABASE_URL=mysql://nonsense\n", "utf-8")
    assert describe_other_database(folder.root, folder.recorded()) is None


@pytest.fixture
def deployed(folder: StackFolder) -> dict[str, str]:
    """What `make up` records of a stack without containers, with all of its secrets."""
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


# A secret, and whether it is given in a file.
SECRETS = [
    (name, is_file)
    for name in sorted({name.upper() for kind in (Settings, RoleSettings) for name in list_secrets(kind)})
    for is_file in (False, True)
]


@pytest.mark.parametrize("place", ["in the environment", "in .env"])
@pytest.mark.parametrize(("name", "is_file"), SECRETS)
def test_up_refuses_another_secret_than_its_own(
    folder: StackFolder,
    deployed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    name: str,
    is_file: bool,
    place: str,
) -> None:
    """The line names the variable, its place, the place of the stack's own secret, and the remedy."""
    other, variable = "s3cr3t of another", f"{name}_FILE" if is_file else name
    write_private(tmp_path / "other", other)
    value = str(tmp_path / "other") if is_file else other
    if place == "in .env":
        (folder.root / ".env").write_text(f"{variable}='{value}'\n", "utf-8")
    else:
        monkeypatch.setenv(variable, value)
    own = deployed.get(f"{name}_FILE", str(folder.stack_env) if name in deployed else None)
    if name == "DATABASE_URL" or own is None:
        # another database has a note of its own; the rest is not the stack's
        refuse_other_secrets(folder.root, deployed)
        return
    with pytest.raises(SettingsError) as refused:
        refuse_other_secrets(folder.root, deployed)
    remedy = "remove it there" if place == "in .env" else "unset it"
    expected = f"{variable} {place} is another one than this stack's, which is in {own}; {remedy}"
    assert str(refused.value) == expected


def test_up_accepts_its_own_secrets(
    folder: StackFolder, deployed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exported copy of the recorded secrets is accepted."""
    for name, value in deployed.items():
        monkeypatch.setenv(name, value)
    refuse_other_secrets(folder.root, deployed)
    monkeypatch.delenv("DATABASE_PASSWORD_FILE")
    monkeypatch.setenv("DATABASE_PASSWORD", "of app.password")
    refuse_other_secrets(folder.root, deployed)


def test_secrets_of_another_database_are_left_alone(
    folder: StackFolder, deployed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They belong to DATABASE_URL, about which `make up` prints a note."""
    monkeypatch.setenv("DATABASE_URL", OTHER_URL)
    monkeypatch.setenv("DATABASE_PASSWORD", "s3cr3t")
    refuse_other_secrets(folder.root, deployed)


def test_migrations_of_the_stack_go_to_its_own_database(deployed: dict[str, str]) -> None:
    """All URLs for migrations name the stack's server."""
    places = {describe_database(deployed[name]) for name in ("DATABASE_URL", "DIRECT_URL", "ADMIN_URL")}
    assert len(places) == 1
    assert deployed["STACK_NAME"] == "main-1a2b"
