"""The forms of REDIS_URL that are accepted, and the error for an invalid one."""

import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner
from pydantic import SecretStr

from core import cli, open_service
from core.errors import SettingsError
from core.settings import Settings
from core.settings.redis_url import HostPort, RedisAddress, RedisUrlError, TlsOptions, parse_redis_url

DATABASE_URL = "postgresql://echo:pw@db.example:5433/echo"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", RedisAddress(host="cache")),
        ("redis://cache/", RedisAddress(host="cache")),
        ("redis://cache:6380/2", RedisAddress(host="cache", port=6380, database=2)),
        ("redis://cache?db=2", RedisAddress(host="cache", database=2)),
        ("redis://cache/2?db=2", RedisAddress(host="cache", database=2)),
        ("redis://[::1]:6380/0", RedisAddress(host="::1", port=6380)),
        ("redis://bob@cache", RedisAddress(host="cache", username="bob", password="given")),
        ("redis://:p%40%2F%3F@cache", RedisAddress(host="cache", password="p@/?")),
        ("redis://cache?password=a+b%26", RedisAddress(host="cache", password="a+b&")),
        ("redis://bob:a@b@cache", RedisAddress(host="cache", username="bob", password="a@b")),
        ("redis://cache?protocol=2", RedisAddress(host="cache", protocol=2)),
        ("unix:///run/redis.sock", RedisAddress(path="/run/redis.sock")),
        ("unix:///run/a?password=x&db=3", RedisAddress(path="/run/a", password="x", database=3)),
        ("unix://bob:x@/run/a%20b", RedisAddress(path="/run/a b", username="bob", password="x")),
        ("rediss://cache", RedisAddress(host="cache", tls=TlsOptions())),
        ("redis+sentinel://one/echo", RedisAddress(host="one", port=26379, service="echo")),
        ("redis+sentinel://one/echo/", RedisAddress(host="one", port=26379, service="echo")),
        ("redis+sentinel://one/a%2Fb/1", RedisAddress(host="one", port=26379, service="a/b", database=1)),
        ("redis+sentinel://one/7/1", RedisAddress(host="one", port=26379, service="7", database=1)),
        (
            "redis+sentinel://bob:a,b@one:1,[::1],two:2/echo/3?protocol=2",
            RedisAddress(
                host="one",
                port=1,
                others=(HostPort("::1", 26379), HostPort("two", 2)),
                service="echo",
                database=3,
                username="bob",
                password="a,b",
                protocol=2,
            ),
        ),
        (
            "rediss+sentinel://one/echo/0",
            RedisAddress(host="one", port=26379, service="echo", tls=TlsOptions()),
        ),
        ("redis://one,two:2/0", RedisAddress(host="one", others=(HostPort("two", 2),))),
        (
            "rediss://cache?ssl_cert_reqs=none&ssl_check_hostname=no",
            RedisAddress(host="cache", tls=TlsOptions(ssl_cert_reqs="none", ssl_check_hostname=False)),
        ),
    ],
)
def test_a_url_is_parsed(url: str, address: RedisAddress) -> None:
    """Each part and each parameter is parsed; REDIS_PASSWORD is used when the URL has no password."""
    given = None if address.password != "given" else address.password
    assert parse_redis_url(url, password=given) == address


WRONG = [
    ("REDIS://cache", "lower case"),
    ("Rediss://cache", "lower case"),
    ("http://cache", "scheme"),
    ("cache:6379", "scheme"),
    ("redis:cache", "scheme"),
    ("redis://", "host is missing"),
    ("redis:///0", "host is missing"),
    ("redis://:6379/0", "host is missing"),
    ("redis://:a/b@cache", "host is missing"),
    ("redis://:a?b@cache/0", "host is missing"),
    ("redis://:a#b@cache", "%23"),
    ("redis://[::1/0", "host is not valid"),
    ("redis://cache:port", "port"),
    ("redis://cache:0", "port"),
    ("redis://cache:65536", "port"),
    ("redis://cache/zero", "database"),
    ("redis://cache/-1", "database"),
    ("redis://cache/²", "database"),
    ("redis://cache/" + "1" * 5_000, "database"),
    ("redis://cache?db=zero", "parameter db"),
    ("redis://cache/1?db=2", "parameter db"),
    ("redis://cache?db=1&db=1", "parameter db is given twice"),
    ("redis://cache?protocol=4", "parameter protocol"),
    ("redis://cache?protocol=", "parameter protocol"),
    ("redis://cache?timeout=abc", "parameter timeout is not allowed: REDIS_TIMEOUT"),
    ("redis://cache?timeout=1", "parameter timeout"),
    ("redis://cache?socket_timeout=1", "parameter socket_timeout"),
    ("redis://cache?decode_responses=true", "parameter decode_responses is not allowed: values are bytes"),
    ("redis://cache?nosuch=1", "parameter 'nosuch' is unknown"),
    ("redis://cache?health_check_interval=30", "parameter 'health_check_interval'"),
    ("redis://cache?max_connections=5", "parameter 'max_connections'"),
    ("redis://cache?%0A=1", "parameter '%0A'"),
    ("redis://cache?DB=1", "parameter 'DB'"),
    ("redis://cache?ssl_cert_reqs=none", "parameter ssl_cert_reqs needs the scheme rediss"),
    ("unix:///a?ssl_ca_certs=/ca.pem", "parameter ssl_ca_certs needs"),
    ("rediss://cache?ssl_cert_reqs=maybe", "parameter ssl_cert_reqs"),
    ("rediss://cache?ssl_check_hostname=maybe", "parameter ssl_check_hostname"),
    ("rediss://cache?ssl_ca_certs=/no/such/file", "parameter ssl_ca_certs cannot be used: No such file"),
    ("rediss://cache?ssl_ca_path=/no/such/folder", "parameter ssl_ca_path"),
    ("rediss://cache?ssl_certfile=/no/such/file", "parameter ssl_certfile cannot be used: No such file"),
    ("rediss://cache?ssl_keyfile=/key.pem", "parameter ssl_keyfile needs ssl_certfile"),
    ("unix://run/redis.sock", "unix:///PATH"),
    ("unix:///", "unix:///PATH"),
    ("redis+sentinel://one", "the service is missing"),
    ("redis+sentinel://one/", "the service is missing"),
    ("redis+sentinel://one/0", "the path has to be /SERVICE/DATABASE"),
    ("redis+sentinel:///echo/0", "host is missing"),
    ("redis+sentinel://one,/echo/0", "host is missing"),
    ("redis+sentinel://one,,two/echo/0", "host is missing"),
    ("redis+sentinel://,one/echo/0", "host is missing"),
    ("redis+sentinel://one,two:0/echo/0", "port"),
    ("redis+sentinel://one,two:port/echo/0", "port"),
    ("redis+sentinel://one,[::1/echo/0", "host is not valid"),
    ("redis+sentinel://one/echo/zero", "database"),
    ("redis+sentinel://one/echo/0/1", "database"),
    ("redis+sentinel://one/%ff/0", "the service is not percent-encoded"),
    ("redis+sentinel://one/echo?ssl_cert_reqs=none", "needs the scheme rediss"),
    ("Redis+Sentinel://one/echo", "lower case"),
    ("redis+cluster://one", "the scheme has to be redis, rediss, unix or redis+sentinel"),
    ("redis://:%ff@cache", "password is not percent-encoded"),
    ("redis://:a@cache?password=b", "parameter password"),
    ("redis://a@cache?username=b", "parameter username"),
]


@pytest.mark.parametrize(("url", "words"), WRONG)
def test_an_invalid_url_is_one_line(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line with the setting, the invalid part, and an example."""
    monkeypatch.setenv("DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    message = str(caught.value)
    assert message.startswith("REDIS_URL is ")
    assert words in message
    assert "; set it to redis://HOST:PORT/DATABASE" in message
    assert "\n" not in message


def make_settings(prefix: str) -> Settings:
    """Return settings with two Redis hosts and a key prefix."""
    return Settings(
        database_url=SecretStr(DATABASE_URL),
        redis_url=SecretStr("redis://one,two/0"),
        redis_key_prefix=prefix,
    )


@pytest.mark.parametrize("prefix", ["", "echo:", "{}:", "{echo:", "}{:"])
def test_several_hosts_need_a_hash_tag(prefix: str) -> None:
    """With several hosts, a REDIS_KEY_PREFIX without a hash tag is refused."""
    with pytest.raises(SettingsError) as caught:
        make_settings(prefix)
    message = str(caught.value)
    assert message.startswith(f"REDIS_KEY_PREFIX is {prefix!r}")
    assert "several hosts in REDIS_URL are nodes of one cluster" in message
    assert "{echo}:" in message


def test_several_hosts_with_a_hash_tag() -> None:
    """With a hash tag in REDIS_KEY_PREFIX, several hosts are accepted as nodes of one cluster."""
    settings = make_settings("a{b}:")
    assert settings.read_redis_address().hosts == (HostPort("one", 6379), HostPort("two", 6379))
    with pytest.raises(SettingsError):
        settings.model_copy(update={"redis_key_prefix": ""}).read_redis_address()


def test_a_command_ends_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command prints only the line about the invalid REDIS_URL, and exits with status 2."""
    monkeypatch.setenv("DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("REDIS_URL", "redis://cache?timeout=abc")
    for command in ("health", "stats", "simulate", "self-test", "maintain", "seed"):
        result = CliRunner().invoke(cli.main, [command])
        assert result.exit_code == 2, command
        [line] = result.stderr.splitlines()
        assert line.startswith("error: REDIS_URL is 'redis://cache?timeout=abc'"), command
        assert "parameter timeout" in line, command


@pytest.mark.parametrize("module", ["exporter", "dashboard"])
def test_a_process_does_not_start(module: str, repository: Path) -> None:
    """The exporter and the dashboard print one line about the invalid REDIS_URL, and exit with status 2."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={"DATABASE_URL": DATABASE_URL, "REDIS_URL": "redis://cache?nosuch=1", "PATH": ""},
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("REDIS_URL is 'redis://cache?nosuch=1'")


def test_unvalidated_settings_are_refused() -> None:
    """`open_service` raises SettingsError for settings that `model_copy` changed without validation."""
    settings = Settings(database_url=SecretStr(DATABASE_URL))
    changed = settings.model_copy(update={"redis_url": SecretStr("redis://cache?nosuch=1")})
    with pytest.raises(SettingsError, match="parameter 'nosuch' is unknown"):
        open_service(changed)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cr3t@cache?nosuch=1",
        "redis://cache?pasword=1&password=s3cr3t&nosuch=1",
        "redis://cache?passwort=s3cr3t",
        "redis://cache/x?password=s3cr3t",
        "redis://:s3/cr3t@cache",
        "redis://:s3?cr3t=1@cache",
        "REDIS://:s3cr3t@cache",
        "redis://:s3cr3t%ff@cache",
        "unix:///a?password=s3cr3t&nosuch=1",
    ],
)
def test_a_password_is_never_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error shows no part of the password, wherever the URL contains the password."""
    monkeypatch.setenv("DATABASE_URL", DATABASE_URL)
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert "cr3t" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


def test_an_address_shows_no_secret() -> None:
    """The text of an address has no user name, password or parameters; its `repr` has no password."""
    address = parse_redis_url("rediss://bob:s3cr3t@cache:6380/2?ssl_cert_reqs=none")
    assert str(address) == "rediss://cache:6380/2"
    assert "s3cr3t" not in repr(address)
    assert str(parse_redis_url("unix:///a?password=s3cr3t")) == "unix:///a"
    assert str(parse_redis_url("redis://[::1]:6380")) == "redis://[::1]:6380/0"
    assert str(parse_redis_url("redis+sentinel://bob:s3cr3t@a,b:1/echo/2")) == (
        "redis+sentinel://a:26379,b:1/echo/2"
    )
    assert str(parse_redis_url("rediss+sentinel://:s3cr3t@a/echo")) == "rediss+sentinel://a:26379/echo/0"


def test_certificates_are_read_with_the_url(tmp_path: Path) -> None:
    """A file without a certificate, or a certificate without its key, is an error of the URL."""
    authority = trustme.CA()
    mine = authority.issue_cert("cache")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    (tmp_path / "text").write_text("no certificate\n", encoding="utf-8")
    good = f"ssl_ca_certs={tmp_path}/ca.pem&ssl_certfile={tmp_path}/client.pem"
    assert parse_redis_url(f"rediss://cache?{good}").tls is not None
    with pytest.raises(RedisUrlError, match="ssl_ca_certs cannot be used"):
        parse_redis_url(f"rediss://cache?ssl_ca_certs={tmp_path}/text")
    with pytest.raises(RedisUrlError, match="ssl_certfile cannot be used"):
        parse_redis_url(f"rediss://cache?ssl_certfile={tmp_path}/ca.pem")
