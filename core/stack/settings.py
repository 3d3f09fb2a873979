"""The settings of the stack itself: its ports, its mode and how much demo data it loads.

`core.settings` has the settings of the programs, and those that both the stack and a program read, such as
EXPORTER_PORT.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, model_validator

from core.errors import SettingsError
from core.settings import (
    STACK_ENV_FILE,
    RoleSettings,
    Settings,
    SharedSettings,
    number,
    port,
)
from core.settings.secret_files import list_secrets, read_secret
from core.settings.stack_identity import describe_database
from core.settings.texts import LOOPBACK
from core.stack.backup import parse_key
from core.stack.profiles import FORM, check_combination, check_profiles, list_profiles, separate_replica
from core.stack.stack_env import FILE, Mode, find_secret

DATABASE = "echo_markets"

Profiles = Annotated[str, AfterValidator(check_profiles)]


class StackSettings(SharedSettings):
    """The settings of the `stack` commands, without DATABASE_URL: the stack has its own database."""

    mode: Mode | None = Field(default=None, description="local or docker")
    profile: Profiles | None = Field(default=None, description=FORM)
    postgres_port: int = port(5433)
    replicas: int = number(0, 0, 1, unit="a whole number of replicas", zero="none")
    replica_port: int = port(5434)
    valkey_port: int = port(6380)
    prometheus_port: int = port(9090)
    dashboards: int = number(2, 2, 16, unit="a whole number of containers")
    seed_players: int = number(100, 1, 100_000, unit="a whole number of players")
    seed_sessions: int = number(250, 1, 10_000, unit="a whole number of sessions")
    keep_dates: bool = Field(default=False, description="true or false")
    backup_key: SecretStr | None = Field(default=None, description="32 bytes in Base64")

    @model_validator(mode="before")
    @classmethod
    def _count_replica(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Replace the profile `replica` by REPLICAS=1, which also works without containers."""
        profile = values.get("profile")
        if not isinstance(profile, str):
            return values
        others, has_replica = separate_replica(profile)
        if not has_replica:
            return values
        # keep a value of REPLICAS other than 0: if it is invalid, the validator of the field refuses it
        replicas = values.get("replicas") or "0"
        return values | {"profile": others or None, "replicas": 1 if replicas == "0" else replicas}

    @classmethod
    def load_for(cls, root: Path) -> "StackSettings":
        """Read the environment, the checkout's `.env` and the record of its running stack.

        Raises `SettingsError` if a value is invalid, if two servers have the same port, or if the profiles
        cannot be combined.
        """
        settings = cls.load(_env_file=(root / STACK_ENV_FILE, root / ".env"))
        settings.check_ports_differ()
        check_combination(settings.list_profiles())
        return settings

    def find_backup_key(self) -> bytes | None:
        """Return the bytes of BACKUP_KEY, or None if it is not set. Raises `StackError` if it is invalid."""
        return None if self.backup_key is None else parse_key(self.backup_key.get_secret_value())

    def list_profiles(self) -> tuple[str, ...]:
        """Return the profiles of the containers, in the order of their files."""
        return list_profiles({"PROFILE": self.profile or "", "REPLICAS": str(self.replicas)})

    def ports(self, mode: Mode) -> dict[str, int]:
        """Return the ports on which the stack listens, by the names of their settings."""
        ports = {
            "POSTGRES_PORT": self.postgres_port,
            "VALKEY_PORT": self.valkey_port,
            "EXPORTER_PORT": self.exporter_port,
            "DASHBOARD_PORT": self.dashboard_port,
        }
        if self.replicas:
            ports["REPLICA_PORT"] = self.replica_port
        return ports | ({"PROMETHEUS_PORT": self.prometheus_port} if mode == "docker" else {})

    def environment(self, mode: Mode) -> dict[str, str]:
        """Return the settings that `stack.env` records: mode, hosts, ports, profiles and process counts."""
        hosts = {"EXPORTER_HOST": self.exporter_host, "DASHBOARD_HOST": self.dashboard_host}
        workers = {"DASHBOARD_WORKERS": str(self.dashboard_workers)}
        chosen = {"STACK_NAME": self.stack_name, "PROFILE": self.profile}
        chosen["REPLICAS"] = str(self.replicas) if self.replicas else None
        chosen["DASHBOARDS"] = str(self.dashboards) if "scale" in self.list_profiles() else None
        ports = {name: str(port) for name, port in self.ports(mode).items()}
        given = {name: value for name, value in chosen.items() if value}
        return {"MODE": mode, **hosts, **ports, **workers, **given}

    def database_url(self, account: str) -> str:
        """Return the URL with which programs on this machine reach the stack's database.

        `account` is ROLE or ROLE:PASSWORD.
        """
        return f"postgresql://{account}@{LOOPBACK}:{self.postgres_port}/{DATABASE}"

    def replica_url(self, account: str) -> str:
        """Return the URL with which programs on this machine reach the stack's database on the replica."""
        return f"postgresql://{account}@{LOOPBACK}:{self.replica_port}/{DATABASE}"

    def build_record(
        self, mode: Mode, *, generated_name: str, connections: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the content of `stack.env`: these settings, the stack's name and `connections`."""
        return {
            **self.environment(mode),
            "STACK_NAME": self.stack_name or generated_name,
            "REDIS_URL": f"redis://{LOOPBACK}:{self.valkey_port}/0",
            **connections,
        }

    def check_ports_differ(self) -> None:
        """Raise `SettingsError` if two servers have the same port."""
        owners: dict[int, str] = {}
        ports = self.ports("docker") | self.ports("local")
        for name, number_given in ports.items():
            owner = owners.setdefault(number_given, name)
            if owner != name:
                raise SettingsError(
                    f"{name} is {number_given}, and {owner} is too; set one of them to another port"
                )


def describe_other_database(root: Path, recorded: Mapping[str, str]) -> str | None:
    """Return a note if `echo-markets` commands in the checkout do not use the database of its stack.

    The stack has its own PostgreSQL, but for these commands DATABASE_URL in the environment or in `.env`
    takes precedence. Returns None if DATABASE_URL is not set or names the stack's own database.
    """
    try:
        chosen = Settings.load(_env_file=(root / ".env",)).database_url.get_secret_value()
    except SettingsError:
        return None  # a setting is missing or invalid: the commands that read it report the error
    own = describe_database(recorded["DATABASE_URL"])
    other = describe_database(chosen)
    if own == other:
        return None
    is_exported = any(name.upper() == "DATABASE_URL" and value for name, value in os.environ.items())
    place, remedy = ("the environment", "unset it") if is_exported else (".env", "remove it there")
    return (
        f"note: this stack uses the database {own}, but DATABASE_URL in {place} is {other}, which"
        f" `echo-markets` commands use; {remedy} to use the stack's (`make migrate` and `make seed` do)"
    )


def refuse_other_secrets(root: Path, recorded: Mapping[str, str]) -> None:
    """Raise `SettingsError` if the environment or `.env` has another value for a secret of the stack.

    The stack's programs use the generated secrets, but `echo-markets` commands in the checkout would use the
    other values: they could not sign in, or would encrypt with keys that the programs do not have. If
    DATABASE_URL names another database, the other values belong to that database, and nothing is refused.
    """
    if describe_other_database(root, recorded) is None:
        lines = [
            f"{name} {place} is another one than this stack's, which is in {own}; {remedy}"
            for name, place, own, remedy in _list_other_secrets(root, recorded)
        ]
        if lines:
            raise SettingsError("\n".join(lines))


def _list_other_secrets(root: Path, recorded: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a tuple for each secret that has another value than in the stack.

    The tuple is (variable, place of the other value, place of the stack's value, remedy).
    """
    secrets = {name.upper() for kind in (Settings, RoleSettings) for name in list_secrets(kind)}
    own = {name: recorded.get(f"{name}{FILE}", root / STACK_ENV_FILE) for name in secrets}
    for place, remedy, values in (
        ("in the environment", "unset it", os.environ),
        ("in .env", "remove it there", dotenv_values(root / ".env", interpolate=False)),
    ):
        given = {name.upper(): value for name, value in values.items() if value}
        for name in sorted(secrets - {"DATABASE_URL"}):
            secret = find_secret(recorded, name)
            if secret and given.get(name, secret) != secret:
                yield name, place, str(own[name]), remedy
            path = given.get(f"{name}{FILE}")
            if secret and path and _read_other(path) != secret:
                yield f"{name}{FILE}", place, str(own[name]), remedy


def _read_other(path: str) -> str | None:
    try:
        return read_secret(Path(path), name=path)
    except SettingsError:
        return None
