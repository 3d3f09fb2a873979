"""The programs of the stack: their command lines, environment and addresses, and how to probe and stop them.

Owns the list and its order. Never runs anything: `supervisor` does.
"""

import signal
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from core.settings import build_listener_url
from core.stack.embedded_servers import (
    PostgresFiles,
    ValkeyFiles,
    postgres_command,
    prepare_postgres,
    prepare_valkey,
    valkey_command,
)
from core.stack.folder import StackFolder
from core.stack.permissions import ServerUser, build_server_environment
from core.stack.ports import LOOPBACK, http_answers, postgres_answers, valkey_answers
from core.stack.settings import StackSettings

CLI = ("-m", "core.cli")
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})

SERVERS = ("postgres", "valkey")
APPLICATIONS = ("exporter", "dashboard", "simulator")
NAMES = SERVERS + APPLICATIONS  # the order of starting; stopping is the reverse

PORT_SETTINGS = MappingProxyType(
    {name: f"{name.upper()}_PORT" for name in (*SERVERS, "exporter", "dashboard")}
)

# SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to disconnect
STOP_SIGNALS = MappingProxyType(dict.fromkeys(NAMES, signal.SIGTERM) | {"postgres": signal.SIGINT})
STOP_SECONDS = 30  # PostgreSQL writes a checkpoint, the others finish their current work


class Program(NamedTuple):
    """One supervised process; with an `environment` it gets only those variables."""

    name: str
    command: list[str]
    user: ServerUser | None = None
    environment: Mapping[str, str] = NO_VARIABLES


class Deployment(NamedTuple):
    """What follows from the settings: which programs run, with which environment."""

    settings: StackSettings
    folder: StackFolder
    postgres: PostgresFiles
    valkey: ValkeyFiles

    @classmethod
    def prepare(cls, settings: StackSettings, folder: StackFolder) -> "Deployment":
        """Create the files that the servers need, such as an empty database cluster."""
        return cls(
            settings=settings,
            folder=folder,
            postgres=prepare_postgres(folder.servers),
            valkey=prepare_valkey(folder.servers),
        )

    def environment(self) -> dict[str, str]:
        """Return the variables that connect a process with this stack, as written to `stack.env`."""
        record = self.settings.build_record(
            "local",
            generated_name=self.folder.load_stack_name(),
            postgres_password=self.postgres.password,
            redis_password=self.valkey.password,
        )
        return {
            **record,
            "METRICS_DIR": str(self.folder.metrics),
            "ENCRYPTION_KEYS_FILE": str(self.folder.create_encryption_keys()),
        }

    def programs(self) -> list[Program]:
        """Return the programs in the order of starting."""
        postgres = postgres_command(self.postgres, port=self.settings.postgres_port)
        valkey = valkey_command(self.valkey, port=self.settings.valkey_port)
        environment = build_server_environment()
        return [
            Program("postgres", postgres, self.postgres.user, environment),
            Program("valkey", valkey, self.valkey.user, environment),
            Program("exporter", [sys.executable, "-m", "exporter"]),
            Program("dashboard", [sys.executable, "-m", "dashboard"]),
            Program("simulator", [sys.executable, *CLI, "simulate"]),
        ]


def answers(name: str, environment: Mapping[str, str]) -> bool:
    """Say whether a program of the recorded stack works; of one without a probe this is assumed."""
    match name:
        case "postgres":
            server_url, _, _ = environment["DATABASE_URL"].rpartition("/")
            return postgres_answers(f"{server_url}/postgres")
        case "valkey":
            return valkey_answers(int(environment["VALKEY_PORT"]), environment["REDIS_PASSWORD"])
        case "exporter" | "dashboard":
            return http_answers(f"{find_address(name, environment)}/readyz")
        case _:
            return True


def find_address(name: str, environment: Mapping[str, str]) -> str:
    """Return the address of a program of the recorded stack, empty when it does not listen."""
    match name:
        case "postgres" | "valkey":
            return f"{LOOPBACK}:{environment[PORT_SETTINGS[name]]}"
        case "exporter" if "EXPORTER_URL" in environment:
            return environment["EXPORTER_URL"]
        case "exporter" | "dashboard":
            return build_listener_url(environment[f"{name.upper()}_HOST"], environment[PORT_SETTINGS[name]])
        case _:
            return ""
