"""An unknown name of a setting is refused, and the error has the closest known name."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from core import Settings, open_service
from core.errors import EchoMarketsError, SettingsError
from core.stack.settings import StackSettings

URL = "postgresql://echo:s3cr3t@db.example:5433/echo"
# `Any`, because the tests pass arguments that the type checker refuses
build: Any = Settings


@pytest.fixture(autouse=True)
def _database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("DATABASE_CONECTION_LIMIT", "DATABASE_CONNECTION_LIMIT"),
        ("DATABASE_CONNECTIONS_LIMIT", "DATABASE_CONNECTION_LIMIT"),
        ("DATABASE_CONNECTION_TIMEOUT", "DATABASE_CONNECT_TIMEOUT"),
        ("DATABSE_POOL_TIMEOUT", "DATABASE_POOL_TIMEOUT"),
        ("database_pool_timout", "DATABASE_POOL_TIMEOUT"),
        ("LOG_LEVL", "LOG_LEVEL"),
        ("REDIS_PASWORD", "REDIS_PASSWORD"),
        ("ENABLE_REDIS_CAHCE", "ENABLE_REDIS_CACHE"),
        ("METRIC_DIR", "METRICS_DIR"),
    ],
)
def test_a_misspelt_variable_is_refused(name: str, closest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is refused; the error has its name and the closest name, but not the value."""
    monkeypatch.setenv(name, "5")
    for read in (build, build.load, open_service):
        with pytest.raises(SettingsError) as caught:
            read()
        message = str(caught.value)
        assert message.startswith(
            f"{name.upper()} is set, and there is no such setting; the closest is {closest}:"
        )
        assert "\n" not in message
        assert "5" not in message


def test_a_misspelt_variable_is_reported_with_the_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With DATABASE_URI instead of DATABASE_URL, the error has a line about each of the two names."""
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URI", URL)
    with pytest.raises(SettingsError) as caught:
        build()
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["DATABASE_URI", "DATABASE_URL"]
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("value", ["7", ""])
def test_a_similar_variable_of_another_program_is_ignored(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A similar name is ignored if the correct variable or argument is also set, even to an empty text."""
    monkeypatch.setenv("DATABASE_CONNECTION_LIMITS", "many")
    monkeypatch.setenv("DATABASE_CONNECTION_LIMIT", value)
    assert build().database_connection_limit == int(value or 10)
    monkeypatch.delenv("DATABASE_CONNECTION_LIMIT")
    assert build(database_connection_limit=3).database_connection_limit == 3


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URI",
        "DATABASE_URL_2",
        "DATABASE_URL2",
        "DATABASE_URL_READONLY",
        "OLD_REDIS_URL",
        "REDIS_HOST",
        "REDIS_PORT",
        "POSTGRES_HOST",
        "POSTGRES_PORT",
        "DATABASE_POOL_SIZE",
        "EXPORTER_PORT_9100_TCP",
        "METRICS_FILES",
        "MODEL",
        "PGDATABASE",
        "SEED_PLAYERS",
    ],
)
def test_names_of_other_programs_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that other programs use, such as POSTGRES_HOST and DATABASE_POOL_SIZE, are ignored."""
    monkeypatch.setenv(name, "x")
    build()
    if name not in {"POSTGRES_PORT", "SEED_PLAYERS"}:
        StackSettings()


def test_no_setting_looks_like_a_misspelt_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting's name is close enough to another setting's name to be taken for its misspelling."""
    for kind in (Settings, StackSettings):
        for name in {*Settings.model_fields, *StackSettings.model_fields}:
            assert kind._list_wrong_names({"_env_file": None}) == []
            with monkeypatch.context() as patch:
                patch.setenv(name.upper(), "")
                assert kind._list_wrong_names({"_env_file": None}) == []


def test_a_misspelt_name_in_the_env_file_is_refused(tmp_path: Path) -> None:
    """A misspelt name in `.env` is refused, because no other program reads this file."""
    file = tmp_path / ".env"
    file.write_text("DATABASE_QUERY_TIMEOUTS=1000\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="the closest is DATABASE_QUERY_TIMEOUT:"):
        build(_env_file=file)
    with pytest.raises(SettingsError, match="the closest is DATABASE_QUERY_TIMEOUT:"):
        build(_env_file=(tmp_path / "none", str(file)))


@pytest.mark.parametrize(
    ("name", "closest"),
    [("databse_url", "database_url"), ("DATABASE_URL", "database_url"), ("redis", "redis_url")],
)
def test_a_misspelt_argument_is_refused(name: str, closest: str) -> None:
    """`Settings()`, `load` and `model_copy` refuse a misspelt argument; the error has the closest name."""
    for make in (build, build.load, lambda **values: build().model_copy(update=values)):
        with pytest.raises(SettingsError, match=f"there is no setting {name}; the closest is {closest}"):
            make(**{name: SecretStr(URL)})
    with pytest.raises(SettingsError, match="there is no setting zzz; Settings lists all"):
        build(zzz=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "mysql://x"),
        ("database_url", 5),
        ("database_connection_limit", "many"),
        ("redis_url", None),
        ("metrics_dir", 7),
    ],
)
def test_an_invalid_argument_raises_our_error(name: str, value: object) -> None:
    """An invalid argument raises `EchoMarketsError` with the name of the variable, and no pydantic error."""
    with pytest.raises(EchoMarketsError, match=f"^{name.upper()} is ") as caught:
        build(**{name: value})
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("settings", [URL, {"database_url": URL}, 0])
def test_settings_of_another_type_are_refused(settings: Any) -> None:
    """`open_service` refuses a value that is not `Settings`, and does not show it: it may hold a password."""
    with pytest.raises(SettingsError, match=r"settings is a (str|dict|int); give core.Settings") as caught:
        open_service(settings)
    assert "s3cr3t" not in str(caught.value)


def test_all_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt argument, an invalid value and a misspelt variable give one line each."""
    monkeypatch.setenv("LOG_FORMATS", "json")
    with pytest.raises(SettingsError) as caught:
        build(databse_url=URL, exporter_port="metrics")
    assert len(str(caught.value).splitlines()) == 3
