"""Every environment variable that a process reads, with its default and its allowed values.

Owns names, defaults and limits. Settings that the commands of the stack read too are in `shared_settings`.
Opens no connection.

Order of precedence: the environment, `.env`, then `.local/stack.env`. `make up` writes `.local/stack.env`, so
that programs in the checkout find the running stack. If the environment or `.env` sets DATABASE_URL to
another database, the whole file `.local/stack.env` is ignored, because it describes another stack.
"""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from core.encryption import EncryptionKeysError, Keyring
from core.errors import SettingsError
from core.settings.database_url import add_password, check_database_url, check_replica_urls
from core.settings.environment import STACK_ENV_FILE, milliseconds, number
from core.settings.redis_url import RedisAddress, RedisUrlError, check_hosts, parse_redis_url
from core.settings.shared_settings import SharedSettings, build_listener_url
from core.settings.stack_identity import StackIdentity, build_identity, describe_database
from core.settings.texts import TextError, check_base_url, check_web_address, reveal


def _check_database_url(value: SecretStr) -> SecretStr:
    return SecretStr(check_database_url(value.get_secret_value()))


def _check_replica_urls(value: SecretStr) -> SecretStr | None:
    urls = " ".join(check_replica_urls(value.get_secret_value()))
    # return None for a value of blanks, such as that of "$FIRST $SECOND" if neither variable is set
    return SecretStr(urls) if urls else None


def _check_redis_url(value: SecretStr) -> SecretStr:
    parse_redis_url(value.get_secret_value())
    return value


def _check_encryption_keys(value: SecretStr) -> SecretStr:
    Keyring.parse(value.get_secret_value())
    return value


def _check_networks(value: str) -> str:
    for network in _split(value):
        ip_network(network)  # raises ValueError if it is not an address or a network
    return value


def _requests(default: int) -> Any:
    return number(default, 0, 1_000_000, unit="a whole number a minute", zero="no limit")


WebAddress = Annotated[str, AfterValidator(check_web_address)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]
ReplicaUrls = Annotated[SecretStr, AfterValidator(_check_replica_urls)]
RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url)]
EncryptionKeys = Annotated[SecretStr, AfterValidator(_check_encryption_keys)]
HttpUrl = Annotated[SecretStr, AfterValidator(check_base_url)]

HostNames = Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+( *, *|$))*$")]
_NAMES_FORM = "host names with commas between them"

Networks = Annotated[str, AfterValidator(_check_networks)]

DATABASE_URL_FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE with libpq's parameters"
_HTTP_URL_FORM = "http://HOST:PORT or https://USER:PASSWORD@HOST:PORT"


class Settings(SharedSettings):
    """The configuration of one process. Each field is read from the environment variable of the same name."""

    database_url: DatabaseUrl = Field(description=DATABASE_URL_FORM)
    database_password: SecretStr | None = Field(default=None, description="any text")
    database_replica_urls: ReplicaUrls | None = Field(
        default=None, description=f"{DATABASE_URL_FORM}, one host each, with blanks between them"
    )
    database_topology: Literal["plain", "citus"] = Field(default="plain", description="plain or citus")
    direct_url: DatabaseUrl | None = Field(default=None, description=DATABASE_URL_FORM)
    direct_password: SecretStr | None = Field(default=None, description="any text")
    encryption_keys: EncryptionKeys | None = Field(
        default=None,
        description="lines of KEY_ID:BASE64, each with 32 random bytes, the key that encrypts first",
    )
    database_connection_limit: int = number(10, 1, 1_000, unit="a whole number of connections")
    database_connect_timeout: int = milliseconds(60_000)
    database_query_timeout: int = milliseconds(30_000)
    database_pool_timeout: int = milliseconds(60_000)
    database_log_queries: Literal["slow", "all", "off"] = Field(
        default="slow", description="slow, all or off"
    )
    database_slow_query: int = milliseconds(1_000)
    redis_url: RedisUrl = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE, unix:///PATH or"
        " redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE",
    )
    redis_password: SecretStr | None = Field(default=None, description="any text")
    redis_sentinel_username: str | None = Field(default=None, description="any text")
    redis_sentinel_password: SecretStr | None = Field(default=None, description="any text")
    redis_key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:{}-]{0,64}$")] = Field(
        default="",
        validate_default=True,
        description="up to 64 letters, digits, '_', '.', ':', '-', '{' and '}'",
    )
    redis_timeout: int = milliseconds(250, 10, 10_000)
    near_cache_size: int = number(10_000, 0, 10_000_000, unit="a whole number of values", zero="none")
    near_cache_ttl: int = milliseconds(5_000, 1, 600_000)
    cache_failsafe: int = milliseconds(300_000, 0, 86_400_000, zero="never")
    stale_read_sample: int = number(0, 0, 1_000_000, unit="a whole number of hits", zero="none")
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
    exporter_names: HostNames = Field(default="", description=_NAMES_FORM)
    exporter_web_config: Path | None = Field(default=None, description="a file")
    exporter_url: HttpUrl | None = Field(default=None, description=_HTTP_URL_FORM)
    exporter_ca: Path | None = Field(default=None, description="a PEM file")
    prometheus_url: HttpUrl | None = Field(default=None, description=_HTTP_URL_FORM)
    dashboard_behind: Literal["nothing", "loopback", "proxy"] = Field(
        default="nothing", description="nothing, loopback or proxy"
    )
    dashboard_proxies: Networks = Field(
        default="127.0.0.1, ::1", description="addresses or networks (10.0.0.0/8) with commas between them"
    )
    rate_limit_pages: int = _requests(1_200)
    rate_limit_downloads: int = _requests(60)
    rate_limit_sign_in: int = _requests(30)
    rate_limit_actions: int = _requests(10)
    rate_limit_exporter: int = _requests(600)
    dashboard_connections: int = number(500, 1, 100_000, unit="a whole number of pages")
    dashboard_connections_per_client: int = number(100, 1, 100_000, unit="a whole number of pages")
    dashboard_operators: str = Field(
        default="", description="e-mail addresses with commas between them, or the word local"
    )
    oidc_client_id: str | None = Field(default=None, description="the client's id at the provider")
    oidc_metadata_url: WebAddress | None = Field(
        default=None, description="https://PROVIDER/.well-known/openid-configuration"
    )
    oidc_redirect_uri: Annotated[WebAddress, Field(pattern=r"^[^?#]*/oauth2callback$")] | None = Field(
        default=None, description="https://HOST/oauth2callback, as the provider knows it"
    )
    oidc_operator_claim: Annotated[str, Field(pattern=r"^[^=\s]+=[^=\s].*$")] | None = Field(
        default=None, description="CLAIM=VALUE, such as groups=operators"
    )
    simulator_interval: int = milliseconds(2_000, 100)
    audit_keep_months: int = number(0, 0, 1_200, unit="a whole number of months", zero="all")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence.

        `.local/stack.env` is left out if another source sets DATABASE_URL to another database. Otherwise that
        database would be used with the Redis, the metrics folder and the ports of the stack in the checkout.
        """
        sources = super().settings_customise_sources(
            settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
        )
        others = tuple(each for each in sources if getattr(each, "file", None) != STACK_ENV_FILE)
        recorded = None if others == sources else dotenv_values(STACK_ENV_FILE, interpolate=False)
        own = (recorded or {}).get("DATABASE_URL")
        chosen = _find_database_url(*others) if own else None
        is_another = own and chosen and describe_database(chosen) != describe_database(own)
        return others if is_another else sources

    @field_validator("database_topology")
    @classmethod
    def _check_no_replicas(cls, value: str, known: ValidationInfo) -> str:
        if value == "citus" and known.data.get("database_replica_urls") is not None:
            raise TextError("a replica of a coordinator does not have the rows; unset DATABASE_REPLICA_URLS")
        return value

    @field_validator("redis_key_prefix")
    @classmethod
    def _check_redis_hosts(cls, value: str, known: ValidationInfo) -> str:
        url = known.data.get("redis_url")
        if url is not None:
            check_hosts(parse_redis_url(url.get_secret_value()), value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _add_passwords(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add DATABASE_PASSWORD or DIRECT_PASSWORD to each database URL that has no password."""
        complete = add_passwords(values, "database", "direct")
        replicas, password = map(reveal, map(values.get, ("database_replica_urls", "database_password")))
        if replicas and password:
            urls = (add_password(url, password) for url in replicas.split())
            complete["database_replica_urls"] = SecretStr(" ".join(urls))
        return complete

    def list_replicas(self) -> tuple["Settings", ...]:
        """Return a copy of the settings for each replica; `database_url` is the URL of the replica."""
        urls = self.database_replica_urls
        return tuple(
            self.model_copy(update={"database_url": SecretStr(url), "database_replica_urls": None})
            for url in (urls.get_secret_value().split() if urls else ())
        )

    def identify_stack(self) -> StackIdentity:
        """Return the identity of the stack to which these settings belong."""
        return build_identity(self.stack_name, self.database_url.get_secret_value())

    def read_redis_address(self) -> RedisAddress:
        """Return the parsed REDIS_URL. REDIS_PASSWORD is used if the URL has no password.

        Raises `SettingsError` for a wrong value: `model_copy` sets values without validating them.
        """
        password = self.redis_password.get_secret_value() if self.redis_password else None
        try:
            address = parse_redis_url(self.redis_url.get_secret_value(), password=password)
            check_hosts(address, self.redis_key_prefix)
            return address  # noqa: TRY300  # both calls may raise it
        except RedisUrlError as error:
            raise SettingsError(f"REDIS_URL is not allowed: {error}") from error

    def read_keyring(self) -> Keyring:
        """Return the keyring with the keys of ENCRYPTION_KEYS, or an empty keyring if there are none.

        Raises `SettingsError` for a wrong value: `model_copy` sets values without validating them.
        """
        keys = self.encryption_keys
        try:
            return Keyring.parse(None if keys is None else keys.get_secret_value())
        except EncryptionKeysError as error:
            raise SettingsError(f"ENCRYPTION_KEYS is not allowed: {error}") from error

    def list_metrics_roles(self) -> tuple[str, ...]:
        """Return the names in METRICS_ROLES."""
        return _split(self.metrics_roles)

    def list_exporter_names(self) -> tuple[str, ...]:
        """Return the names in EXPORTER_NAMES."""
        return _split(self.exporter_names)

    def list_dashboard_proxies(self) -> tuple[str, ...]:
        """Return the addresses and networks in DASHBOARD_PROXIES."""
        return _split(self.dashboard_proxies)

    def find_exporter_url(self) -> str:
        """Return EXPORTER_URL, or if it is not set, the URL of an exporter with the same settings."""
        if self.exporter_url is not None:
            return self.exporter_url.get_secret_value().rstrip("/")
        return build_listener_url(self.exporter_host, self.exporter_port)


def add_passwords(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a copy of `values`: each NAME_url without a password gets the password in NAME_password."""
    complete = dict(values)
    for name in names:
        url, password = reveal(values.get(f"{name}_url")), reveal(values.get(f"{name}_password"))
        if url and password:
            complete[f"{name}_url"] = SecretStr(add_password(url, password))
    return complete


def _split(text: str) -> tuple[str, ...]:
    return tuple(name for name in re.split(" *, *", text) if name)


def _find_database_url(*sources: PydanticBaseSettingsSource) -> str | None:
    """Return the DATABASE_URL of the first source that has one."""
    for source in sources:
        value = reveal(source().get("database_url"))
        if value:
            return value
    return None
