"""The programs of the stack: their command lines, environment and addresses, and how to probe them.

Never starts a program: `supervisor` does, in the order of `start_order`.
"""

import shutil
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from core.settings import build_listener_url
from core.settings.database_url import add_password
from core.settings.role_names import APP, MONITOR, OWNER
from core.settings.texts import LOOPBACK
from core.stack.embedded_servers import (
    SUPERUSER,
    PostgresFiles,
    ValkeyFiles,
    postgres_command,
    prepare_postgres,
    prepare_replica,
    prepare_valkey,
    valkey_command,
)
from core.stack.folder import StackFolder
from core.stack.permissions import ServerUser, build_server_environment, load_password
from core.stack.ports import http_answers, postgres_answers, valkey_answers
from core.stack.settings import StackSettings
from core.stack.stack_env import find_secret
from core.stack.start_order import PORT_SETTINGS, REPLICA

CLI = ("-m", "core.cli")
# Variables whose value is the path of a file with a secret, and the name of this file in `.local/secrets/`.
SECRET_FILES = MappingProxyType(
    {
        "DATABASE_PASSWORD_FILE": "app.password",
        "DIRECT_PASSWORD_FILE": "owner.password",
        "OWNER_PASSWORD_FILE": "owner.password",
        "APP_PASSWORD_FILE": "app.password",
        "MONITOR_PASSWORD_FILE": "monitor.password",
        "REDIS_PASSWORD_FILE": "redis.password",
    }
)
# Variables that only the `echo-markets` commands of the checkout get, not the supervised programs.
ADMINISTRATION = (
    "DIRECT_URL",
    "DIRECT_PASSWORD_FILE",
    "ADMIN_URL",
    "ADMIN_PASSWORD_FILE",
    "OWNER_PASSWORD_FILE",
    "APP_PASSWORD_FILE",
    "MONITOR_PASSWORD_FILE",
)
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class Program(NamedTuple):
    """One supervised process.

    A program with an `environment` gets only these variables. Without it, the program inherits the
    supervisor's environment. The variables in `added` are added in both cases.
    """

    name: str
    command: list[str]
    user: ServerUser | None = None
    environment: Mapping[str, str] = NO_VARIABLES
    added: Mapping[str, str] = NO_VARIABLES


class Deployment(NamedTuple):
    """The stack on embedded servers with these settings: its programs, server files and environment."""

    settings: StackSettings
    folder: StackFolder
    postgres: PostgresFiles
    valkey: ValkeyFiles

    @classmethod
    def prepare(cls, settings: StackSettings, folder: StackFolder) -> "Deployment":
        """Create the passwords and the server files that are missing, and return the deployment."""
        for file in SECRET_FILES.values():
            load_password(folder.secrets / file)
        return cls(
            settings=settings,
            folder=folder,
            postgres=prepare_postgres(folder.servers),
            valkey=prepare_valkey(
                folder.servers, password_file=folder.secrets / SECRET_FILES["REDIS_PASSWORD_FILE"]
            ),
        )

    def environment(self) -> dict[str, str]:
        """Return the content of `stack.env`: the variables with which a process connects to this stack."""
        secrets = {name: str(self.folder.secrets / file) for name, file in SECRET_FILES.items()}
        return self.settings.build_record(
            "local",
            generated_name=self.folder.load_stack_name(),
            connections={
                "DATABASE_URL": self.settings.database_url(APP),
                "DIRECT_URL": self.settings.database_url(OWNER),
                "ADMIN_URL": self.settings.database_url(SUPERUSER),
                # the superuser's password is generated with the cluster and stored next to it
                "ADMIN_PASSWORD_FILE": str(self.folder.servers / "postgres.password"),
                **secrets,
                **self._replica_url(APP),
                "METRICS_DIR": str(self.folder.metrics),
                "ENCRYPTION_KEYS_FILE": str(self.folder.create_encryption_keys()),
            },
        )

    def _replica_url(self, role: str) -> dict[str, str]:
        return {"DATABASE_REPLICA_URLS": self.settings.replica_url(role)} if self.settings.replicas else {}

    def copy_primary(self) -> None:
        """Replace the replica's files by a new copy of the primary.

        An old copy could not catch up, because the primary keeps no WAL for it.
        """
        directory = self.folder.servers / REPLICA
        shutil.rmtree(directory, ignore_errors=True)
        prepare_replica(directory, primary_port=self.settings.postgres_port, password=self.postgres.password)

    def _list_replicas(self) -> list[Program]:
        if not self.settings.replicas:
            return []
        files = self.postgres._replace(data=self.folder.servers.resolve() / REPLICA / "postgres")
        command = postgres_command(files, port=self.settings.replica_port)
        return [Program(REPLICA, command, files.user, build_server_environment())]

    def programs(self) -> list[Program]:
        """Return the programs in the order in which they start."""
        postgres = postgres_command(self.postgres, port=self.settings.postgres_port)
        valkey = valkey_command(self.valkey, port=self.settings.valkey_port)
        environment = build_server_environment()
        monitoring = {
            "DATABASE_URL": self.settings.database_url(MONITOR),
            "DATABASE_PASSWORD_FILE": str(self.folder.secrets / SECRET_FILES["MONITOR_PASSWORD_FILE"]),
            **self._replica_url(MONITOR),
        }
        return [
            Program("postgres", postgres, self.postgres.user, environment),
            Program("valkey", valkey, self.valkey.user, environment),
            *self._list_replicas(),
            Program("exporter", [sys.executable, "-m", "exporter"], added=monitoring),
            Program("dashboard", [sys.executable, "-m", "dashboard"]),
            Program("simulator", [sys.executable, *CLI, "simulate"]),
        ]


def answers(name: str, environment: Mapping[str, str]) -> bool:
    """Return whether a program of the recorded stack answers its probe. True if it has no probe."""
    match name:
        case "postgres":
            return postgres_answers(find_administrator_url(environment))
        case "replica":
            url = find_administrator_url(environment)
            primary, replica = (environment[PORT_SETTINGS[each]] for each in ("postgres", REPLICA))
            return postgres_answers(url.replace(f":{primary}/", f":{replica}/"))
        case "valkey":
            return valkey_answers(int(environment["VALKEY_PORT"]), find_secret(environment, "REDIS_PASSWORD"))
        case "exporter" | "dashboard":
            return http_answers(f"{find_address(name, environment)}/readyz")
        case _:
            return True


def find_administrator_url(environment: Mapping[str, str]) -> str:
    """Return the URL, with the password, with which the superuser connects to the database `postgres`.

    The database `postgres` exists before the stack's own database is created.
    """
    # a record of release 0.1.0 has no ADMIN_URL; its DATABASE_URL is the superuser's
    server, _, _ = environment.get("ADMIN_URL", environment["DATABASE_URL"]).rpartition("/")
    return add_password(f"{server}/postgres", find_secret(environment, "ADMIN_PASSWORD"))


def find_superuser_url(environment: Mapping[str, str]) -> str:
    """Return the URL, with the password, with which the superuser connects to the stack's own database."""
    return add_password(environment["ADMIN_URL"], find_secret(environment, "ADMIN_PASSWORD"))


def find_address(name: str, environment: Mapping[str, str]) -> str:
    """Return the address of a program of the stack. `environment` is the record that `up` has written.

    The address is empty if the program does not listen.
    """
    match name:
        case "postgres" | "valkey" | "replica":
            return f"{LOOPBACK}:{environment[PORT_SETTINGS[name]]}"
        case "exporter" if "EXPORTER_URL" in environment:
            return environment["EXPORTER_URL"]
        case "exporter" | "dashboard":
            return build_listener_url(environment[f"{name.upper()}_HOST"], environment[PORT_SETTINGS[name]])
        case _:
            return ""
