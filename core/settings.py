"""The configuration of every process, read from the environment in this one place.

Owns names, defaults, limits and their error messages. Never opens a connection
and never shows a password: secrets are `SecretStr`, and a rejected value is
redacted before it is printed.

Order of precedence: the environment, `.env`, then `.local/stack.env` (written by
`make up` so that tools started in the checkout find the running stack). The last one counts
as a whole or not at all: with a DATABASE_URL of another database it is another stack's.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from core.database_url import DatabaseUrlError, check_database_url
from core.errors import SettingsError
from core.misspelt_names import find_closest, find_misspelt
from core.redis_url import RedisAddress, RedisUrlError, parse_redis_url
from core.stack_identity import NAME_PATTERN, StackIdentity, build_identity, describe_database

STACK_ENV_FILE = Path(".local/stack.env")

Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]
Port = Annotated[int, Field(ge=1, le=65_535)]


def redact(text: str) -> str:
    """Return `text` with every password in it replaced, safe to print or log."""
    text = re.sub(r"://(?P<login>.*)@", _hide_password, text)
    # a misspelt parameter may hold a password as well
    return re.sub(r"(?i)((?:pass(?!file)\w*|pwd|secret|token)=)[^&\s]*", r"\1***", text)


def _hide_password(found: re.Match[str]) -> str:
    user, colon, _ = found["login"].partition(":")
    if re.search(r"[/?#@]", user):
        # such a sign may stand in a password that begins earlier than it seems
        return "://***@"
    return f"://{user}:***@" if colon else found[0]


def _check_database_url(value: SecretStr) -> SecretStr:
    return SecretStr(check_database_url(value.get_secret_value()))


def _check_redis_url(value: SecretStr) -> SecretStr:
    parse_redis_url(value.get_secret_value())
    return value


def _check_web_address(value: str) -> str:
    _check_http_url(SecretStr(value))
    return value


def _check_http_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("scheme")
    _ = parts.port  # raises ValueError when it is not a port
    return value


WebAddress = Annotated[str, AfterValidator(_check_web_address)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url)]
HttpUrl = Annotated[SecretStr, AfterValidator(_check_http_url)]

StackName = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]
STACK_NAME_FORM = "up to 64 letters, digits, '.', '_' and '-'"

_DATABASE_URL_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE with libpq's parameters"
# who listens on every address is reached on the loopback interface
_REACHABLE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing is bound here
_HTTP_URL_FORM = "http://HOST:PORT or https://USER:PASSWORD@HOST:PORT"


class EnvironmentSettings(BaseSettings):
    """Reads the environment and says in one line each what is wrong with it.

    Every field has a `description` that names the values it allows.
    """

    model_config = SettingsConfigDict(
        env_file=(STACK_ENV_FILE, ".env"),
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        case_sensitive=False,
        hide_input_in_errors=True,
    )

    def __init__(self, **values: Any) -> None:
        """Read the environment; `values` win over it.

        Raises `SettingsError` with one line for each wrong variable: its name, its value without
        passwords, and what is allowed; for a name that is almost that of a setting; or for a file
        that cannot be read.
        """
        try:
            lines = self._list_wrong_names(values)
            super().__init__(**values)
        except ValidationError as error:
            lines += [self._explain(item) for item in error.errors(include_url=False)]
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"a file of settings, {STACK_ENV_FILE} or .env, is not UTF-8 text: {error}; save it as UTF-8"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"the file of settings {error.filename} cannot be read: {error.strerror};"
                " run this as its owner, or from another folder"
            ) from None
        if lines:
            raise SettingsError("\n".join(lines))

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; `overrides` win over it. Raises `SettingsError` as the constructor does."""
        return cls(**overrides)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, which are not checked; raises `SettingsError` for other names."""
        lines = self._list_unknown(update or {})
        if lines:
            raise SettingsError("\n".join(lines))
        return super().model_copy(update=update, deep=deep)

    @classmethod
    def _list_unknown(cls, names: Iterable[str]) -> list[str]:
        """Return a line for each name that is no setting."""
        unknown = sorted(set(names) - set(cls.model_fields))
        closest = {name: find_closest(name.lower(), cls.model_fields) for name in unknown}
        return [
            f"there is no setting {name}; "
            + (f"the closest is {closest[name]}" if closest[name] else f"{cls.__name__} lists all")
            for name in unknown
        ]

    @classmethod
    def _list_wrong_names(cls, values: Mapping[str, Any]) -> list[str]:
        """Return a line for each wrong name among the values, and for each misspelt one outside.

        Others may use a name that is almost that of a setting, so it is wrong only while the
        setting itself is given nowhere.
        """
        names = {name.upper() for name in (*os.environ, *_list_names_in_files(cls._list_files(values)))}
        given = names.union(map(str.upper, values))
        lines = cls._list_unknown(name for name in values if not name.startswith("_"))
        for name, closest in find_misspelt(sorted(names - _list_known()), _list_known(cls)).items():
            if closest not in given:
                lines.append(
                    f"{name} is set, and there is no such setting; the closest is {closest}: correct the"
                    f" name, or, if others read {name}, set {closest} too, to nothing for its default"
                )
        return lines

    @classmethod
    def _list_files(cls, values: Mapping[str, Any]) -> Sequence[Path]:
        files = values.get("_env_file", cls.model_config.get("env_file"))
        return [Path(file) for file in ([files] if isinstance(files, str | Path) else files or ())]

    @classmethod
    def _explain(cls, item: Any) -> str:
        field = str(item["loc"][0])
        name, allowed = field.upper(), cls.model_fields[field].description
        if item["type"] == "missing":
            return f"{name} is not set; set it to {allowed}"
        value = item.get("input")
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        # without its scheme a URL cannot be taken apart, and a password in it cannot be found
        is_opaque = field.endswith("_url") and "://" not in str(value)
        shown = (
            "(hidden)" if is_opaque or field.endswith(("password", "secret")) else repr(redact(str(value)))
        )
        cause = item.get("ctx", {}).get("error")
        is_explained = isinstance(cause, RedisUrlError | DatabaseUrlError) and str(cause)
        reason = f": {cause}" if is_explained else ""
        return f"{name} is {shown}, which is not allowed{reason}; set it to {allowed}"


def _list_names_in_files(files: Iterable[Path]) -> set[str]:
    return {name for file in files if file.is_file() for name in dotenv_values(file, interpolate=False)}


def _list_known(kind: type[EnvironmentSettings] = EnvironmentSettings) -> set[str]:
    """Return the variables that a kind of settings reads, and those that more special ones read."""
    fields = {name.upper() for name in kind.model_fields}
    return fields.union(*map(_list_known, kind.__subclasses__()))


def find_database_url(*sources: PydanticBaseSettingsSource) -> str | None:
    """Return the DATABASE_URL of the first source that has one."""
    for source in sources:
        value = source().get("database_url")
        if value:
            return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return None


class Settings(EnvironmentSettings):
    """One process's configuration; every field is an environment variable of the same name."""

    database_url: DatabaseUrl = Field(description=_DATABASE_URL_FORM)
    direct_url: DatabaseUrl | None = Field(default=None, description=_DATABASE_URL_FORM)
    database_connection_limit: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=10, description="a whole number of connections from 1 to 1000"
    )
    database_connect_timeout: Milliseconds = Field(
        default=60_000, description="whole milliseconds from 1 to 3600000"
    )
    database_query_timeout: Milliseconds = Field(
        default=30_000, description="whole milliseconds from 1 to 3600000"
    )
    database_pool_timeout: Milliseconds = Field(
        default=60_000, description="whole milliseconds from 1 to 3600000"
    )
    database_log_queries: Literal["slow", "all", "off"] = Field(
        default="slow", description="slow, all or off"
    )
    database_slow_query: Milliseconds = Field(
        default=1_000, description="whole milliseconds from 1 to 3600000"
    )
    redis_url: RedisUrl = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH",
    )
    redis_password: SecretStr | None = Field(default=None, description="any text")
    redis_key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:{}-]{0,64}$")] = Field(
        default="", description="up to 64 letters, digits, '_', '.', ':', '-', '{' and '}'"
    )
    redis_timeout: Annotated[int, Field(ge=10, le=10_000)] = Field(
        default=250, description="whole milliseconds from 10 to 10000"
    )
    near_cache_size: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        default=10_000, description="a whole number of values from 0 (none) to 10000000"
    )
    near_cache_ttl: Annotated[int, Field(ge=1, le=600_000)] = Field(
        default=5_000, description="whole milliseconds from 1 to 600000"
    )
    cache_failsafe: Annotated[int, Field(ge=0, le=86_400_000)] = Field(
        default=300_000, description="whole milliseconds from 0 (never) to 86400000"
    )
    stale_read_sample: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0, description="a whole number of hits from 0 (none) to 1000000"
    )
    enable_redis_cache: bool = Field(default=True, description="true or false")
    health_require_redis: bool = Field(default=False, description="true or false")
    metrics_dir: Path | None = Field(default=None, description="a folder")
    metrics_roles: Annotated[str, Field(pattern=r"^([a-z]+(-[a-z]+)*(, *|$))*$")] = Field(
        default="", description="names of lower-case letters and hyphens, with commas between them"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="text or json")
    exporter_host: str = Field(default="127.0.0.1", description="an address to listen on")
    exporter_port: Port = Field(default=9100, description="a port from 1 to 65535")
    exporter_web_config: Path | None = Field(default=None, description="a file")
    exporter_url: HttpUrl | None = Field(default=None, description=_HTTP_URL_FORM)
    prometheus_url: HttpUrl | None = Field(default=None, description=_HTTP_URL_FORM)
    dashboard_host: str = Field(default="127.0.0.1", description="an address to listen on")
    dashboard_port: Port = Field(default=8501, description="a port from 1 to 65535")
    dashboard_behind: Literal["nothing", "loopback", "proxy"] = Field(
        default="nothing", description="nothing, loopback or proxy"
    )
    dashboard_operators: str = Field(
        default="", description="e-mail addresses with commas between them, or the word local"
    )
    oidc_client_id: str | None = Field(default=None, description="the client's id at the provider")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="the client's secret at the provider"
    )
    oidc_metadata_url: WebAddress | None = Field(
        default=None, description="https://PROVIDER/.well-known/openid-configuration"
    )
    oidc_redirect_uri: Annotated[WebAddress, Field(pattern=r"/oauth2callback$")] | None = Field(
        default=None, description="https://HOST/oauth2callback, as the provider knows it"
    )
    oidc_cookie_secret: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        default=None, description="a random text of 32 characters or more"
    )
    oidc_operator_claim: Annotated[str, Field(pattern=r"^[^=\s]+=[^=\s].*$")] | None = Field(
        default=None, description="CLAIM=VALUE, such as groups=operators"
    )
    simulator_interval: Annotated[int, Field(ge=100, le=3_600_000)] = Field(
        default=2_000, description="whole milliseconds from 100 to 3600000"
    )
    stack_name: StackName | None = Field(default=None, description=STACK_NAME_FORM)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out what a stack recorded when these settings name another database than its own.

        Its Redis, metrics folder and ports would otherwise be mixed with that database.
        """
        files = getattr(dotenv_settings, "env_file", None)
        if not isinstance(files, tuple) or STACK_ENV_FILE not in files:
            return init_settings, env_settings, dotenv_settings, file_secret_settings
        others = DotEnvSettingsSource(
            settings_cls, env_file=tuple(file for file in files if file != STACK_ENV_FILE)
        )
        recorded = dotenv_values(STACK_ENV_FILE, interpolate=False).get("DATABASE_URL")
        chosen = find_database_url(init_settings, env_settings, others)
        is_another = recorded and chosen and describe_database(chosen) != describe_database(recorded)
        files_read = others if is_another else dotenv_settings
        return init_settings, env_settings, files_read, file_secret_settings

    def identify_stack(self) -> StackIdentity:
        """Return which stack these settings are of."""
        return build_identity(self.stack_name, self.database_url.get_secret_value())

    def read_redis_address(self) -> RedisAddress:
        """Return where Redis is and how to sign in; REDIS_PASSWORD counts when REDIS_URL has none.

        Raises `SettingsError`, for settings that were not validated.
        """
        password = self.redis_password.get_secret_value() if self.redis_password else None
        try:
            return parse_redis_url(self.redis_url.get_secret_value(), password=password)
        except RedisUrlError as error:
            raise SettingsError(f"REDIS_URL is not allowed: {error}") from error

    def list_metrics_roles(self) -> tuple[str, ...]:
        """Return the names in METRICS_ROLES."""
        return tuple(name for name in re.split(", *", self.metrics_roles) if name)

    def find_exporter_url(self) -> str:
        """Return where this process reaches the exporter: EXPORTER_URL, or what it listens on."""
        if self.exporter_url is not None:
            return self.exporter_url.get_secret_value().rstrip("/")
        host = _REACHABLE.get(self.exporter_host, self.exporter_host)
        return (
            f"http://[{host}]:{self.exporter_port}" if ":" in host else f"http://{host}:{self.exporter_port}"
        )
