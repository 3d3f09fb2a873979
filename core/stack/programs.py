"""The programs of the stack: their command lines, how to probe them and how to stop them.

Owns the list and its order. Never runs anything: `supervisor` does.
"""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from core.stack.account import Account, server_environment
from core.stack.configuration import StackSettings
from core.stack.folder import StackFolder
from core.stack.ports import LOOPBACK
from core.stack.postgres import (
    SUPERUSER,
    PostgresFiles,
    postgres_command,
    prepare_postgres,
)
from core.stack.probes import (
    http_answers,
    postgres_answers,
    reachable_host,
    valkey_answers,
)
from core.stack.valkey import ValkeyFiles, prepare_valkey, valkey_command

DATABASE = "echo_markets"
CLI = ("-m", "core.cli")
NOTHING: Mapping[str, str] = MappingProxyType({})

SERVERS = ("postgres", "valkey")
APPLICATIONS = ("exporter", "dashboard", "simulator")
NAMES = SERVERS + APPLICATIONS  # the order of starting; stopping is the reverse

PORT_SETTINGS = MappingProxyType(
    {name: f"{name.upper()}_PORT" for name in (*SERVERS, "exporter", "dashboard")}
)

# SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to leave
STOP_SIGNALS = MappingProxyType(dict.fromkeys(NAMES, signal.SIGTERM) | {"postgres": signal.SIGINT})
STOP_SECONDS = 30  # PostgreSQL writes a checkpoint, the others finish what they are doing


class Program(NamedTuple):
    """One supervised process; with an `environment` it gets that and nothing else."""

    name: str
    command: list[str]
    account: Account | None = None
    environment: Mapping[str, str] = NOTHING


class Plan(NamedTuple):
    """Everything that follows from the settings: what to run, with which environment."""

    settings: StackSettings
    folder: StackFolder
    postgres: PostgresFiles
    valkey: ValkeyFiles

    @classmethod
    def prepare(cls, settings: StackSettings, folder: StackFolder) -> "Plan":
        """Create what the servers need on disk, such as an empty database cluster."""
        return cls(
            settings=settings,
            folder=folder,
            postgres=prepare_postgres(folder.servers),
            valkey=prepare_valkey(folder.servers),
        )

    def database_url(self, database: str = DATABASE) -> str:
        """Return the URL of one of the embedded server's databases."""
        address = f"{LOOPBACK}:{self.settings.postgres_port}"
        return f"postgresql://{SUPERUSER}:{self.postgres.password}@{address}/{database}"

    def environment(self) -> dict[str, str]:
        """Return the variables that point a process at this stack, as written to `stack.env`."""
        return {
            "STACK_NAME": self.settings.stack_name or self.folder.load_stack_name(),
            "DATABASE_URL": self.database_url(),
            # or one in `.env`, of another database, would be migrated instead
            "DIRECT_URL": self.database_url(),
            "REDIS_URL": f"redis://{LOOPBACK}:{self.settings.valkey_port}/0",
            "REDIS_PASSWORD": self.valkey.password,
            "METRICS_DIR": str(self.folder.metrics),
            **self.settings.environment("local"),
        }

    def programs(self) -> list[Program]:
        """Return the programs in the order of starting."""
        postgres = postgres_command(self.postgres, port=self.settings.postgres_port)
        valkey = valkey_command(self.valkey, port=self.settings.valkey_port)
        environment = server_environment()
        return [
            Program("postgres", postgres, self.postgres.account, environment),
            Program("valkey", valkey, self.valkey.account, environment),
            Program("exporter", [sys.executable, "-m", "exporter"]),
            Program("dashboard", [sys.executable, "-m", "dashboard"]),
            Program("simulator", [sys.executable, *CLI, "simulate"]),
        ]


def answers(name: str, environment: Mapping[str, str]) -> bool:
    """Say whether a program of the recorded stack does its work; one without a probe does while it runs."""
    match name:
        case "postgres":
            server_url, _, _ = environment["DATABASE_URL"].rpartition("/")
            return postgres_answers(f"{server_url}/postgres")
        case "valkey":
            return valkey_answers(int(environment["VALKEY_PORT"]), environment["REDIS_PASSWORD"])
        case "exporter" | "dashboard":
            host, port = environment[f"{name.upper()}_HOST"], int(environment[f"{name.upper()}_PORT"])
            return http_answers(reachable_host(host), port, "/readyz")
        case _:
            return True


def address(name: str, environment: Mapping[str, str]) -> str:
    """Return where a program of the recorded stack is reached, empty when it does not listen."""
    match name:
        case "postgres" | "valkey":
            return f"{LOOPBACK}:{environment[PORT_SETTINGS[name]]}"
        case "exporter" | "dashboard":
            host = reachable_host(environment[f"{name.upper()}_HOST"])
            return f"http://{host}:{environment[PORT_SETTINGS[name]]}"
        case _:
            return ""


def log_file(folder: StackFolder, name: str) -> Path:
    """Return the file that a program's output goes to."""
    return folder.log / f"{name}.log"


def pid_file(folder: StackFolder, name: str) -> Path:
    """Return the file in which a running program's process id is kept."""
    return folder.run / f"{name}.pid"
