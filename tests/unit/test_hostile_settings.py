"""Values that no setting means, in every setting of every kind, by each way that leads to it.

A setting is refused in one line that names it and its remedy and shows no secret, or its value can be used.
All settings get a value at once, because all mistakes are named at once. A new setting is covered by itself.
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
MOST_LETTERS = 1_000
URL = "postgresql://echo@127.0.0.1:1/echo"
SECRET = "s3cr3t"  # what no message may show
# Values of settings that are URLs; the test puts the scheme in front that each setting expects.
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
)  # fmt: skip  # one value a line would hide that each is another trap
TEXTS = (
    "10.0.0.0/8", "10.0.0.1/8", "::/0", "fe80::1%eth0", "[::1]", "127.0.0.1:80", "a..b",
    f"{'a' * 64}.example", "a b", ",", "a,,b", " a", "a=b", "=", " true", "TRUE", "a@b", "local",
    "local,a@b", "65536", "1e3", "/", "~/x", "a\tb",
)  # fmt: skip  # as above
GIVEN = ("database_url", "admin_url", "owner_password", "app_password", "monitor_password")
"""Settings without a default."""


def find_scheme(field: str) -> str:
    """Return how a URL in a setting begins."""
    if field.startswith("redis"):
        return "redis://"
    return "postgresql://" if field in {"database_url", "direct_url", "admin_url"} else "https://"


def build(kind: type[EnvironmentSettings], values: Mapping[str, Any]) -> EnvironmentSettings:
    """Return settings with these values, and what is needed besides them."""
    needed = {name: URL if name.endswith("url") else "a" for name in GIVEN if name in kind.model_fields}
    return kind(_env_file=None, **{**needed, **values})


def find_faults(kind: type[EnvironmentSettings], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with how a kind of settings takes these values."""
    accepted = dict(values)
    try:
        settings = build(kind, values)
    except SettingsError as error:
        for line in str(error).split("\n"):
            name = line.partition(" ")[0].lower().removesuffix("_file")
            accepted.pop(name, None)
            if name not in values or not line.isprintable() or len(line) > MOST_LETTERS or SECRET in line:
                yield line[:200]
        try:
            settings = build(kind, accepted)
        except Exception as again:
            yield f"refused what was not named: {type(again).__name__} {str(again)[:200]}"
            return
    except Exception as error:
        yield f"{type(error).__name__} {str(error)[:200]}"
        return
    yield from (f"{name} is shown" for name in list_secrets(kind) if SECRET in repr(getattr(settings, name)))


def fill(kind: type[EnvironmentSettings], value: Any) -> dict[str, Any]:
    """Return a value for every setting of a kind."""
    return dict.fromkeys(kind.model_fields, value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_refuses_or_takes_every_value(kind: type[EnvironmentSettings]) -> None:
    """Each value is given to the constructor."""
    faults = [
        (place, fault)
        for place, value in enumerate((*TEXTS, *VALUES))
        for fault in find_faults(kind, fill(kind, value))
    ]
    assert not faults


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_refuses_or_takes_every_address(kind: type[EnvironmentSettings]) -> None:
    """Each address has the scheme that the setting expects, with the password in wrong places too."""
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
def test_no_random_value_leads_to_a_foreign_error(kind: type[EnvironmentSettings], value: Any) -> None:
    """Random texts with lone surrogates, and random documents, raise only the documented error."""
    assert not list(find_faults(kind, fill(kind, value)))


def list_variables() -> Iterator[str]:
    """Yield the texts that a variable of the environment can have."""
    for value in (*TEXTS, *ADDRESSES, *VALUES):
        if isinstance(value, str) and "\x00" not in value and len(value) < 120_000:
            try:
                os.fsencode(value)
            except UnicodeEncodeError:
                continue
            yield value


def find_faults_of_variables(kind: type[EnvironmentSettings], variables: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with how a kind of settings takes these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            kind(_env_file=None)
        except SettingsError as error:
            for line in str(error).split("\n"):
                name = line.partition(" ")[0].removesuffix("_FILE").lower()
                is_named = name in kind.model_fields
                if not is_named or not line.isprintable() or len(line) > MOST_LETTERS or SECRET in line:
                    yield line[:200]
        except Exception as error:
            yield f"{type(error).__name__} {str(error)[:200]}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_variable_is_refused_or_taken(kind: type[EnvironmentSettings]) -> None:
    """The same values are given in the environment, addresses with the scheme that the setting expects."""
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
def test_every_path_and_content_of_a_secret_is_refused_or_taken(
    kind: type[EnvironmentSettings], tmp_path: Path
) -> None:
    """Each text is given as the path, where the secret may stand by mistake, and as the content."""
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
def test_a_strange_value_that_is_taken_can_be_used(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process starts, and an unreachable server raises one of the stack's own errors."""
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
    """The exporter reports that it cannot read the file."""
    with pytest.raises(SettingsError, match=r"EXPORTER_WEB_CONFIG: .*cannot be read"):
        load_web_config(Path(value))


def test_a_strange_role_is_refused() -> None:
    """A role is the one argument of `open_service` beside the settings: words in lower case."""
    settings = Settings(database_url=URL, enable_redis_cache=False)  # type: ignore[arg-type]  # a text
    for value in VALUES:
        if value == "nan":
            open_service(settings, role="nan").close()
            continue
        with pytest.raises(InvalidInput) as caught:
            open_service(settings, role=value)
        assert len(str(caught.value)) < MOST_LETTERS
