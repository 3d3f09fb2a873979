"""Settings from the environment, and the errors about invalid values."""

import logging

import pytest

from core import cli
from core.errors import SettingsError
from core.settings import Settings, redact
from core.settings.stack_identity import describe_database

URL = "postgresql://echo:s3cr3t@db.example:5433/echo"


@pytest.fixture(autouse=True)
def _database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)


def test_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable sets the field of the same name."""
    for name, value in {
        "DIRECT_URL": "postgres://echo:pw@direct/echo",
        "DATABASE_CONNECTION_LIMIT": "7",
        "DATABASE_CONNECT_TIMEOUT": "1000",
        "DATABASE_QUERY_TIMEOUT": "2000",
        "DATABASE_POOL_TIMEOUT": "3000",
        "REDIS_URL": "rediss://cache.example:6380/2",
        "REDIS_PASSWORD": "hunter2",
        "ENABLE_REDIS_CACHE": "false",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.database_connection_limit == 7
    assert settings.database_connect_timeout == 1000
    assert settings.database_query_timeout == 2000
    assert settings.database_pool_timeout == 3000
    assert settings.redis_password is not None
    assert settings.redis_password.get_secret_value() == "hunter2"
    assert settings.enable_redis_cache is False
    assert settings.direct_url is not None
    assert settings.direct_url.get_secret_value() == "postgresql://echo:pw@direct/echo"


def test_defaults_are_the_documented_values() -> None:
    """With only DATABASE_URL set, the settings have the documented defaults."""
    settings = Settings.load()
    assert settings.database_connection_limit == 10
    assert settings.database_connect_timeout == 60_000
    assert settings.database_query_timeout == 30_000
    assert settings.database_pool_timeout == 60_000
    assert settings.enable_redis_cache is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_CONNECTION_LIMIT", "0"),
        ("DATABASE_CONNECTION_LIMIT", "ten"),
        ("DATABASE_CONNECTION_LIMIT", "1.5"),
        ("DATABASE_CONNECTION_LIMIT", "1001"),
        ("DATABASE_CONNECT_TIMEOUT", "-1"),
        ("DATABASE_QUERY_TIMEOUT", "30s"),
        ("DATABASE_POOL_TIMEOUT", "0"),
        ("ENABLE_REDIS_CACHE", "perhaps"),
        ("REDIS_URL", "http://cache.example"),
        ("REDIS_URL", "redis://cache.example:65536/0"),
        ("REDIS_URL", "redis://cache.example/zero"),
        ("DATABASE_URL", "sqlite:///echo.db"),
        ("DATABASE_URL", "postgresql://db.example"),
        ("DATABASE_URL", "postgresql://db.example:65536/echo"),
        ("DATABASE_URL", "postgresql://db.example/echo?schema=public"),
        ("DIRECT_URL", "mysql://echo"),
        ("REDIS_KEY_PREFIX", "with space"),
        ("EXPORTER_PORT", "65536"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_an_invalid_value_is_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line with the variable, the value and the allowed values."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{name} is {value!r}")
    assert "set it to" in message


def test_a_missing_url_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DATABASE_URL, the error has an example of the URL."""
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(SettingsError, match="DATABASE_URL is not set; set it to postgresql://"):
        Settings.load()


def test_all_invalid_variables_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two invalid variables give an error of two lines."""
    monkeypatch.setenv("DATABASE_POOL_TIMEOUT", "soon")
    monkeypatch.setenv("EXPORTER_PORT", "metrics")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert len(str(caught.value).splitlines()) == 2


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as unset, because Compose passes unset variables as empty ones."""
    monkeypatch.setenv("REDIS_PASSWORD", "")
    monkeypatch.setenv("DATABASE_CONNECTION_LIMIT", "")
    settings = Settings.load()
    assert settings.redis_password is None
    assert settings.database_connection_limit == 10


@pytest.mark.parametrize(
    "url",
    [
        "mysql://echo:s3cr3t@db/echo",
        "postgresql://echo:s3cr3t@db:port/echo",
        "postgresql://echo:s3@cr3t@db/echo?bad=1",
        "postgresql://db/echo?password=s3cr3t&bad=1",
        "postgresql://db/echo?auth=s3cr3t",
        # URLs without a host
        "postgresql://echo:s3cr3t/echo",
        "postgresql://echo:s3cr3t",
        "postgresql://a:5432,[::1]:s3cr3t/echo",
    ],
)
def test_a_password_is_never_shown(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error, its cause and the log show no part of a password in DATABASE_URL."""
    monkeypatch.setenv("DATABASE_URL", url)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caplog.text}"
    assert "s3cr3t" not in shown
    assert "cr3t" not in shown
    assert "***" in str(caught.value)


@pytest.mark.parametrize("value", ["bob:s3cr3t@db", "s3cr3t", "host=db password=s3cr3t"])
def test_a_url_without_a_scheme_is_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value without a scheme is not shown, because the whole value may be a password."""
    monkeypatch.setenv("DIRECT_URL", value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert str(caught.value).startswith(
        "DIRECT_URL is (hidden), which is not allowed; set it to postgresql://"
    )


def test_repr_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The `repr`, `str` and JSON of settings show no password."""
    monkeypatch.setenv("REDIS_PASSWORD", "hunter2")
    settings = Settings.load()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "s3cr3t" not in text
        assert "hunter2" not in text


def test_a_constructor_error_hides_secrets() -> None:
    """An invalid argument of `Settings()` gives the same error as the variable, without the password."""
    with pytest.raises(SettingsError, match="DATABASE_URL is") as caught:
        Settings(database_url="mysql://echo:s3cr3t@db/echo")  # type: ignore[arg-type]  # the test passes a wrong type
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://echo:s3@cr3t@db/echo", "write '@' as %40"),
        ("postgresql://echo:12/cr3t@db/echo", "write '/' as %2F"),
        ("postgresql://ec/ho:s3cr3t@db/echo", "write '/' as %2F"),
        ("postgresql://echo:s3cr3t%@db/echo", "write '%' as %25"),
        ("postgresql://echo:s3%cr3t@db/echo", "write '%' as %25"),
        ("postgresql://echo:s3/cr3t?x@db/echo", "libpq cannot read it"),
        ("postgresql://echo:s3cr3t@a:1,b:2,c:3/echo?port=1,2", "one for all hosts or one for each"),
        ("postgresql://echo:s3cr3t@db:0/echo", "a number from 1 to 65535"),
        ("postgresql://echo:s3cr3t@db/echo?schema=public", "libpq has no parameter schema"),
        ("postgresql://echo:s3cr3t@db/echo?options=-csearch_path=echo,public", "write '=' as %3D"),
        ("postgresql://echo:s3cr3t@db/", "names no database"),
        ("POSTGRESQL://echo:s3cr3t@db/echo", "set it to postgresql://"),
    ],
)
def test_a_url_that_libpq_would_misread_is_refused(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says how to correct the URL, and shows no part of the password."""
    caplog.set_level(logging.DEBUG)
    for name in ("DATABASE_URL", "DIRECT_URL"):
        monkeypatch.setenv(name, url)
        with pytest.raises(SettingsError) as caught:
            Settings.load()
        message = f"{caught.value} {caplog.text}"
        assert reason in message
        assert "\n" not in str(caught.value).replace("\nDIRECT_URL", " DIRECT_URL")
        assert "s3" not in message
        assert "cr3t" not in message
    assert describe_database(url) == "(not a connection URL)"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://echo:s3#cr3t@db/echo",
        "postgresql://echo:s3?cr3t@db/echo",
        "postgresql://echo:s3:cr3t@db/echo",
        "postgresql://echo:s3%40%2F%25cr3t@db/echo",
        "postgresql://echo:s3cr3t@a:5432,b:5433/echo?target_session_attrs=read-write",
        "postgresql://echo:s3cr3t@a,b:5433,c/echo",
        "postgresql://echo:s3cr3t@a,b:5433/echo?load_balance_hosts=random",
        "postgresql:///echo?host=a,b&port=1,2&user=echo&password=s3@cr3t",
        "postgresql://[::1]:5432,[::2]/echo",
        "postgresql:///echo?host=/var/run/postgresql",
        "postgresql:///echo?service=echo",
        "postgres://echo@db/echo",
    ],
)
def test_urls_of_libpq_are_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs with several hosts, a socket, a service or special characters in the password are accepted."""
    monkeypatch.setenv("DATABASE_URL", url)
    settings = Settings.load()
    assert settings.database_url.get_secret_value() == url.replace("postgres://", "postgresql://")
    assert "cr3t" not in repr(settings)
    assert "cr3t" not in describe_database(url)


@pytest.mark.parametrize("blanks", [" ", " \t", "\n"])
@pytest.mark.parametrize("topology", ["plain", "citus"])
def test_a_blank_replica_setting_is_unset(
    blanks: str, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DATABASE_REPLICA_URLS with only blanks counts as unset."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/echo")
    monkeypatch.setenv("DATABASE_REPLICA_URLS", blanks)
    monkeypatch.setenv("DATABASE_TOPOLOGY", topology)
    settings = Settings.load()
    assert settings.database_replica_urls is None
    assert settings.list_replicas() == ()


@pytest.mark.parametrize(
    ("urls", "reason"),
    [
        ("postgresql://db/echo postgres://db/echo", "a replica is named twice"),
        ("postgresql://db/echo postgresql://db:5432/echo", "a replica is named twice"),
        (
            "postgresql://db/echo postgresql://alice:s3cr3t@DB/echo?connect_timeout=3",
            "a replica is named twice",
        ),
        ("postgresql://localhost/echo postgresql:///echo?hostaddr=127.0.0.1", "a replica is named twice"),
        ("postgresql://a,b/echo", "one host"),
        ("postgresql:///echo?host=a,b", "one host"),
        ("postgresql:///echo?hostaddr=10.0.0.1,10.0.0.2", "one host"),
    ],
)
def test_invalid_replica_urls_are_refused(urls: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is named twice, in any spelling, and a replica URL with two hosts are refused."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://primary/echo")
    monkeypatch.setenv("DATABASE_REPLICA_URLS", urls)
    with pytest.raises(SettingsError, match=reason) as caught:
        Settings.load()
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "urls",
    [
        "postgresql://db:5432/echo postgresql://db:5433/echo",
        "postgresql://pooler/first postgresql://pooler/second",
        "postgresql:///echo?service=first postgresql:///echo?service=second",
        "postgresql:///echo?host=/run/first postgresql:///echo?host=/run/second",
    ],
)
def test_replicas_on_one_host_are_accepted(urls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replica URLs that differ in port, socket, service or database are accepted."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://primary/echo")
    monkeypatch.setenv("DATABASE_REPLICA_URLS", urls)
    assert len(Settings.load().list_replicas()) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://a:b@h/d", "postgresql://a:***@h/d"),
        ("redis://:b@h", "redis://:***@h"),
        ("postgresql://a:b@c@h/d", "postgresql://a:***@h/d"),
        ("postgresql://a@h/d", "postgresql://a@h/d"),
        ("postgresql://a/b:c@h/d", "postgresql://***@h/d"),
        ("postgresql://a/b@h/d", "postgresql://***@h/d"),
        ("postgresql://h/d?password=b&x=1", "postgresql://h/d?password=***&x=1"),
        ("postgresql://h:5432,[::1]:5433,[::2]/d", "postgresql://h:5432,[::1]:5433,[::2]/d"),
        ("postgresql://a:b/d", "postgresql://a:***/d"),
        ("redis://a:b:6379", "redis://a:***"),
        ("postgresql://a:b@h:c,[::1]:d/d", "postgresql://a:***@h:***,[::1]:***/d"),
        ("plain text", "plain text"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    """`redact` replaces the password, or a part of a URL that may be one, with `***`."""
    assert redact(text) == shown


def test_a_bulk_load_has_a_higher_slow_query_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulk loads log slow statements from a higher threshold, unless DATABASE_SLOW_QUERY is set."""
    assert cli._load_bulk_settings().database_slow_query == cli.BULK_SLOW_MILLISECONDS
    monkeypatch.setenv("DATABASE_SLOW_QUERY", "1000")
    assert cli._load_bulk_settings().database_slow_query == 1_000
