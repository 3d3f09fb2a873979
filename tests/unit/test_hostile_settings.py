"""Invalid and strange values for every setting, by the constructor, the environment and secret files.

Each setting either refuses the value with a one-line error, which names the setting and shows no secret, or
accepts a value that can be used. All settings of a class get a value at the same time, because one error
names all invalid settings. New settings are covered automatically.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from core import Settings, open_service
from core.errors import InvalidInput, SettingsError
from core.http_client import FetchFailed, fetch
from core.settings import EnvironmentSettings, RoleSettings
from core.settings.secret_files import list_secrets
from core.stack.settings import StackSettings
from core.testing import ENCRYPTION_KEYS
from dashboard.server.access import build_policy
from exporter.access import load_web_config
from tests.hostile_values import VALUES

KINDS = (Settings, RoleSettings, StackSettings)
MAX_LENGTH = 1_000
URL = "postgresql://echo@127.0.0.1:1/echo"
SECRET = "s3cr3t"  # no error message may contain this
# URLs without a scheme; the tests add the scheme that each setting expects.
ADDRESSES = (
    f"u:{SECRET}@h/d", f"u:{SECRET}/d", f"u:{SECRET}", f"u:{SECRET}@[::1/d", f"u:{SECRET}@[zz]:1/d",
    f"u:{SECRET}@h:99999/d", f"u:{SECRET}@h:-1/d", f"u:{SECRET}@h:+1/d", f"u:{SECRET}@h:{SECRET}/d",
    "h:\uff11/d", f"h/d?password={SECRET}&x=1", f"h/d?passwd={SECRET}", f"h/d?auth={SECRET}",
    f"u:{SECRET}@{'a' * 70}/d", f"u:{SECRET}@a..b/d", f"u:{SECRET}@h\n/d", f"u:{SECRET}@h\x00/d",
    f"u:{SECRET}@h\ud800/d", f"u:{SECRET}\ud800@h/d", f"u:{SECRET}\x00@h/d", f"u:{SECRET}%ff@h/d",
    f"u:{SECRET}%00@h/d", f"u:{SECRET}@h /d", f"u:{SECRET}@h/d\r\nX: y", f"u:{SECRET}@\u202eh/d",
    f"u:{SECRET}@%h/d", f"u:{SECRET}@h%2f/d", f"u:{SECRET}@h,i/d", f"u:{SECRET}@h/d#e",
    f"u:{SECRET}@h/{'x' * 200_000}", f"u:{SECRET}@h/d/oauth2callback", "h/é/oauth2callback",
    "127.0.0.1:0/d", "", "/", ":",
)  # fmt: skip  # one value per line would make a long list
TEXTS = (
    "10.0.0.0/8", "10.0.0.1/8", "::/0", "fe80::1%eth0", "[::1]", "127.0.0.1:80", "a..b",
    f"{'a' * 64}.example", "a b", ",", "a,,b", " a", "a=b", "=", " true", "TRUE", "a@b", "local",
    "local,a@b", "65536", "1e3", "/", "~/x", "a\tb",
)  # fmt: skip  # as above
REQUIRED = ("database_url", "admin_url", "owner_password", "app_password", "monitor_password")
"""Settings without a default value."""


def find_scheme(field: str) -> str:
    """Return the scheme that the URL in this setting must have."""
    if field.startswith("redis"):
        return "redis://"
    return "postgresql://" if field in {"database_url", "direct_url", "admin_url"} else "https://"


def build_settings(kind: type[EnvironmentSettings], values: Mapping[str, Any]) -> EnvironmentSettings:
    """Return settings with these values, and with valid values for the required settings."""
    needed = {name: URL if name.endswith("url") else "a" for name in REQUIRED if name in kind.model_fields}
    return kind(_env_file=None, **{**needed, **values})


def find_faults(kind: type[EnvironmentSettings], values: Mapping[str, Any]) -> Iterator[str]:
    """Build settings with these values; yield each fault of the error or of the settings."""
    accepted = dict(values)
    try:
        settings = build_settings(kind, values)
    except SettingsError as error:
        for line in str(error).split("\n"):
            name = line.partition(" ")[0].lower().removesuffix("_file")
            accepted.pop(name, None)
            if name not in values or not line.isprintable() or len(line) > MAX_LENGTH or SECRET in line:
                yield line[:200]
        try:
            settings = build_settings(kind, accepted)
        except Exception as again:
            yield f"refused what was not named: {type(again).__name__} {str(again)[:200]}"
            return
    except Exception as error:
        yield f"{type(error).__name__} {str(error)[:200]}"
        return
    yield from (f"{name} is shown" for name in list_secrets(kind) if SECRET in repr(getattr(settings, name)))


def fill(kind: type[EnvironmentSettings], value: Any) -> dict[str, Any]:
    """Return a dict that gives every setting of a class this value."""
    return dict.fromkeys(kind.model_fields, value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_constructor_refuses_or_accepts_every_value(kind: type[EnvironmentSettings]) -> None:
    """Every strange value is given to the constructor for every setting."""
    faults = [
        (place, fault)
        for place, value in enumerate((*TEXTS, *VALUES))
        for fault in find_faults(kind, fill(kind, value))
    ]
    assert not faults


@pytest.mark.parametrize("kind", KINDS)
def test_the_constructor_refuses_or_accepts_every_url(kind: type[EnvironmentSettings]) -> None:
    """Every strange URL is given to the constructor for every setting, with a password in odd places."""
    faults = [
        (place, fault)
        for place, address in enumerate(ADDRESSES)
        for fault in find_faults(kind, {name: find_scheme(name) + address for name in kind.model_fields})
    ]
    assert not faults


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", KINDS)
@given(value=st.text(st.characters()) | TREES)
@examples(max_examples=25)
def test_a_random_value_raises_only_settings_errors(kind: type[EnvironmentSettings], value: Any) -> None:
    """Random texts with lone surrogates, and random nested values, raise nothing but `SettingsError`."""
    assert not list(find_faults(kind, fill(kind, value)))


def list_variables() -> Iterator[str]:
    """Yield the strange texts that an environment variable can have."""
    for value in (*TEXTS, *ADDRESSES, *VALUES):
        if isinstance(value, str) and "\x00" not in value and len(value) < 120_000:
            try:
                os.fsencode(value)
            except UnicodeEncodeError:
                continue
            yield value


def find_faults_of_variables(kind: type[EnvironmentSettings], variables: Mapping[str, str]) -> Iterator[str]:
    """Build settings from these environment variables; yield each fault of the error."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            kind(_env_file=None)
        except SettingsError as error:
            for line in str(error).split("\n"):
                name = line.partition(" ")[0].removesuffix("_FILE").lower()
                is_named = name in kind.model_fields
                if not is_named or not line.isprintable() or len(line) > MAX_LENGTH or SECRET in line:
                    yield line[:200]
        except Exception as error:
            yield f"{type(error).__name__} {str(error)[:200]}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_environment_variable_is_refused_or_accepted(kind: type[EnvironmentSettings]) -> None:
    """Every strange text is given in the environment variable of every setting."""
    faults = [
        fault
        for value in list_variables()
        for fault in find_faults_of_variables(
            kind,
            {
                name.upper(): f"{find_scheme(name)}{value}" if SECRET in value else value
                for name in kind.model_fields
            },
        )
    ]
    assert not faults


@pytest.mark.parametrize("kind", KINDS)
def test_every_secret_path_and_content_is_refused_or_accepted(
    kind: type[EnvironmentSettings], tmp_path: Path
) -> None:
    """Each text is the content of a secret file, and also its path: a user may set X_FILE to the secret."""
    faults: list[str] = []
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    for value in list_variables():
        file.write_bytes(os.fsencode(value))
        for path in (value, str(file)):
            variables = {f"{name.upper()}_FILE": path for name in list_secrets(kind)}
            faults += find_faults_of_variables(kind, variables)
    assert not faults


WORKING: dict[str, tuple[str, ...]] = {
    "database_password": ("é💥", "a b'\\", "\t\r\n", "%00", "p" * 10_000),
    "redis_password": ("é💥", "a b'\\", "\t\r\n", "%00", "p" * 10_000),
    "redis_url": ("redis://[::1]:1/0", "redis://u:%00%0a@127.0.0.1:1", "unix:///nowhere/%E2%82%AC"),
    "redis_key_prefix": ("{a}:", "." * 64),
    "metrics_dir": ("a\\b", "é💥", "x" * 300, "/dev/null/a"),
    "exporter_host": ("::", "0.0.0.0", "localhost", "a-b.example."),
    "exporter_url": ("http://[::1]:1", "http://127.0.0.1:1/a%20b", "http://%00:%ff@127.0.0.1:1"),
    "exporter_ca": ("é💥", "x" * 300, "."),
    "dashboard_proxies": ("::/0", ",", "10.0.0.0/8"),
    "dashboard_operators": (",", "local"),
    "metrics_roles": ("job," * 9,),
    "stack_name": ("." * 64,),
    "encryption_keys": (f"{ENCRYPTION_KEYS}\n\n",),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WORKING for value in WORKING[name]])
def test_an_accepted_strange_value_can_be_used(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an accepted strange value a service opens, and an unreachable server raises a known error."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(database_url=URL, **{"enable_redis_cache": False, name: value})  # type: ignore[arg-type]  # texts
    with open_service(settings) as service:
        assert service.health().status == "unhealthy"
    settings.identify_stack()
    settings.read_redis_address()
    build_policy(settings)
    url, authority = settings.find_exporter_url(), settings.exporter_ca
    with pytest.raises(FetchFailed):
        fetch(url if ":1" in url else "https://127.0.0.1:1", timeout_seconds=1, authority=authority)


@pytest.mark.parametrize("value", ["x" * 300, ".", "/dev/null/a", "é💥"])
def test_a_strange_path_of_the_web_config_is_refused(value: str) -> None:
    """A path that cannot be read raises `SettingsError` with the setting's name."""
    with pytest.raises(SettingsError, match=r"EXPORTER_WEB_CONFIG: .*cannot be read"):
        load_web_config(Path(value))


def test_a_strange_role_is_refused() -> None:
    """`open_service` refuses a role that is not made of lower-case words, with a short error."""
    settings = Settings(database_url=URL, enable_redis_cache=False)  # type: ignore[arg-type]  # a text
    for value in VALUES:
        if value == "nan":
            open_service(settings, role="nan").close()
            continue
        with pytest.raises(InvalidInput) as caught:
            open_service(settings, role=value)
        assert len(str(caught.value)) < MAX_LENGTH
