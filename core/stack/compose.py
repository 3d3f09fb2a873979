"""The stack in containers, run by Docker Compose.

Owns the command lines of `docker compose` and the parsing of its output. `compose.yaml` defines the
containers.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from rich.table import Table

from core.errors import StackError
from core.installation import find_revision
from core.settings.role_names import APP, OWNER
from core.settings.texts import LOOPBACK
from core.stack.certificates import check_certificates
from core.stack.embedded_servers import SUPERUSER
from core.stack.ports import check_ports
from core.stack.profiles import SERVICES as ADDED_SERVICES
from core.stack.profiles import list_files, list_profiles
from core.stack.redis_access import USER
from core.stack.secret_generation import SCRAPER, ContainerSecrets, make_secrets, name_copies
from core.stack.settings import DATABASE, StackSettings, refuse_other_secrets
from core.stack.stack import SHOWN_LOG_LINES, Stack

# a container engine that needs longer than this to report its version counts as not working
ENGINE_SECONDS = 8.0
QUERY_SECONDS = 60.0

PUBLISHED = {
    "postgres": "POSTGRES_PORT",
    "redis": "VALKEY_PORT",
    "exporter": "EXPORTER_PORT",
    "dashboard": "DASHBOARD_PORT",
    "prometheus": "PROMETHEUS_PORT",
}
ONE_SHOT = frozenset({"secrets", "roles", "migrate", "seed"})
FOLDER_LABEL = "com.docker.compose.project.working_dir="
SERVICES = frozenset({*PUBLISHED, *ONE_SHOT, "simulator"})
"""The services in `compose.yaml`. Profiles add further services."""


class Container(NamedTuple):
    """The container of one service, as `docker compose ps` shows it."""

    service: str
    state: str
    is_healthy: bool
    ports: str


def find_engine_problem() -> str | None:
    """Return why containers cannot run on this machine, or None if they can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=ENGINE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` does not answer within {ENGINE_SECONDS:.0f} s"
        if result.returncode != 0:
            lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
            return f"`{' '.join(command)}` failed: {lines[-1] if lines else 'no output'}"
    return None


class ComposeStack(Stack):
    """The stack of one checkout, in containers."""

    program_noun = "service"
    program_names = tuple(sorted({*SERVICES, *chain.from_iterable(ADDED_SERVICES.values())}))

    def _up(self, settings: StackSettings, *, backup: Path | None) -> None:
        with self.folder.lock():
            if "tls" in settings.list_profiles():
                check_certificates(self.folder.certificates, now=datetime.now(UTC))
            containers = self._list_containers(self._environment(settings))
            secrets = make_secrets(self.folder, settings)
            recorded = settings.build_record(
                "docker",
                generated_name=self.folder.load_stack_name(),
                connections={
                    **build_addresses(settings, secrets, certificates=self.folder.certificates),
                    "ENCRYPTION_KEYS_FILE": str(self.folder.create_encryption_keys()),
                },
            )
            if self.folder.recorded() == recorded and _are_complete(containers, recorded):
                self.print_line("already running, nothing to do")
            else:
                refuse_other_secrets(self.folder.root, recorded)
                self._check_ports(settings, containers)
                self.folder.docker_mark.touch()
                self.folder.record(recorded)
                self._start(settings, backup=backup)
            # show loopback addresses: programs in containers listen on 0.0.0.0, but their ports are published
            # on the loopback interface only
            published = dict.fromkeys(("EXPORTER_HOST", "DASHBOARD_HOST"), LOOPBACK)
            self._show_addresses({**recorded, **published})

    def down(self) -> None:
        """Remove the containers. The volumes with the data are kept."""
        with self.folder.lock():
            self._compose(["down", "--remove-orphans"])
            self.folder.forget_record()
        self.print_line("stopped, the data is kept")

    def remove_data(self) -> None:
        """Remove the containers and their volumes."""
        with self.folder.lock():
            # name all profiles, because an earlier run with other profiles may have made volumes
            self._compose(["down", "--remove-orphans", "--volumes"], profiles=tuple(ADDED_SERVICES))
        self.print_line("removed the containers and their volumes")

    def watch(self) -> None:
        """Restart the containers whose sources change, until Ctrl-C."""
        self._compose(["watch", "--no-up"])

    def run(self, *arguments: str) -> int:
        """Run an `echo-markets` command as the database owner in a new container. Return its exit status."""
        terminal = [] if sys.stdout.isatty() else ["--no-TTY"]
        command = self._build_command(
            ["run", "--rm", "--no-deps", *terminal, "migrate", "echo-markets", *arguments], None
        )
        environment = {**os.environ, **self.folder.recorded()}
        return subprocess.run(command, cwd=self.folder.root, env=environment, check=False).returncode

    def _show_programs(self, recorded: Mapping[str, str]) -> bool:
        containers = self._list_containers()
        table = Table("service", "state", "healthy", "address", box=None)
        for item in containers:
            table.add_row(item.service, item.state, "yes" if item.is_healthy else "no", item.ports)
        self._console.print(table)
        return _are_complete(containers, recorded)

    def _show_logs(self, name: str | None, *, follow: bool) -> None:
        options = [
            "--tail",
            str(SHOWN_LOG_LINES),
            *(["--follow"] if follow else []),
            *([name] if name else []),
        ]
        self._compose(["logs", *options])

    def _start(self, settings: StackSettings, *, backup: Path | None) -> None:
        environment = self._environment(settings)
        # --remove-orphans removes containers of profiles that are not chosen any more
        start = ["up", "--build", "--detach", "--wait", "--remove-orphans"]
        try:
            if backup is not None:
                self._compose([*start, "postgres"], environment)
                self._compose(["run", "--rm", "roles"], environment)
                self._fill(settings, backup)
            self._compose(start, environment)
        except StackError as error:
            remedy = "`make logs` shows more; after `make down`, MODE=local needs no containers"
            raise StackError(f"{error}; {remedy}") from error

    def _environment(self, settings: StackSettings) -> dict[str, str]:
        """Return the variables that `compose.yaml` uses."""
        return {
            **os.environ,
            **settings.environment("docker"),
            "STACK_NAME": settings.stack_name or self.folder.load_stack_name(),
            "REVISION": find_revision(self.folder.root),
            "SEED_PLAYERS": str(settings.seed_players),
            "SEED_SESSIONS": str(settings.seed_sessions),
            "KEEP_DATES": str(settings.keep_dates).lower(),
            **name_copies(settings),
        }

    def _compose(
        self,
        arguments: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        profiles: tuple[str, ...] | None = None,
    ) -> None:
        command = self._build_command(arguments, environment, profiles)
        result = subprocess.run(command, cwd=self.folder.root, env=environment, check=False)
        if result.returncode != 0:
            shown = f"docker compose {' '.join(arguments)}"
            raise StackError(f"`{shown}` failed with status {result.returncode}, see above")

    def _build_command(
        self,
        arguments: list[str],
        environment: Mapping[str, str] | None,
        profiles: tuple[str, ...] | None = None,
    ) -> list[str]:
        """Return a `docker compose` command line that reads `compose.yaml` and the files of the profiles.

        By default, the profiles are those in `environment`. Without `environment`, they are those of the
        running stack.
        """
        if profiles is None:
            profiles = list_profiles(self.folder.recorded() if environment is None else environment)
        files = [str(path) for path in list_files(Path(), profiles)] if profiles else []
        return ["docker", "compose", *chain.from_iterable(("--file", file) for file in files), *arguments]

    def _list_containers(self, environment: Mapping[str, str] | None = None) -> list[Container]:
        command = self._build_command(["ps", "--all", "--format", "json"], environment)
        try:
            result = subprocess.run(
                command,
                cwd=self.folder.root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=QUERY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StackError(f"the container engine does not answer within {QUERY_SECONDS:.0f} s") from None
        if result.returncode != 0:
            raise StackError(f"`{' '.join(command)}` failed: {result.stderr.strip()}")
        self._check_owner(find_checkouts(result.stdout))
        return sorted(parse_containers(result.stdout))

    def _check_owner(self, checkouts: set[str]) -> None:
        """Raise `StackError` if one of the `checkouts` that own the containers is not this checkout.

        Compose names a project after its folder, so two checkouts in folders of the same name have the same
        project.
        """
        others = checkouts - {str(self.folder.root)}
        if others:
            names = ", ".join(sorted(others))
            raise StackError(
                f"the containers belong to {names}; set COMPOSE_PROJECT_NAME to another name here"
            )

    def _check_ports(self, settings: StackSettings, containers: list[Container]) -> None:
        running = {item.service for item in containers if item.state == "running"}
        published = {**PUBLISHED, "replica": "REPLICA_PORT"}
        ports = settings.ports("docker")
        names = [name for service, name in published.items() if service not in running and name in ports]
        check_ports({name: ports[name] for name in names}, hosts={})


def build_addresses(
    settings: StackSettings, secrets: ContainerSecrets, *, certificates: Path
) -> dict[str, str]:
    """Return the variables with which programs on this machine connect to the servers.

    DATABASE_URL, DIRECT_URL and ADMIN_URL connect as the application, the owner and the superuser. With
    PROFILE=tls, the clients verify the servers with `ca.crt` in the folder `certificates`.
    """
    roles = {
        "DATABASE_URL": (APP, secrets.app_password),
        "DIRECT_URL": (OWNER, secrets.owner_password),
        "ADMIN_URL": (SUPERUSER, secrets.superuser_password),
    }
    server = f"{LOOPBACK}:{settings.postgres_port}/{DATABASE}"
    addresses = {
        **{name: f"postgresql://{role}:{password}@{server}" for name, (role, password) in roles.items()},
        "REDIS_URL": f"redis://{USER}@{LOOPBACK}:{settings.valkey_port}/0",
        "REDIS_PASSWORD": secrets.redis_password,
    }
    if settings.replicas:
        addresses["DATABASE_REPLICA_URLS"] = settings.replica_url(f"{APP}:{secrets.app_password}")
    if "tls" in settings.list_profiles():
        authority = str(certificates / "ca.crt")
        quoted = quote(authority, safe="")
        for name in roles:
            addresses[name] += f"?sslmode=verify-full&sslrootcert={quoted}"
        redis = addresses["REDIS_URL"].replace("redis:", "rediss:")
        exporter = f"{SCRAPER}:{secrets.exporter_password}@{LOOPBACK}:{settings.exporter_port}"
        addresses |= {
            "REDIS_URL": f"{redis}?ssl_ca_certs={quoted}",
            "EXPORTER_URL": f"https://{exporter}",
            "EXPORTER_CA": authority,
        }
    return addresses


def parse_containers(text: str) -> list[Container]:
    """Return the containers in the output of `docker compose ps --format json`."""
    return [_parse_container(item) for item in _parse_items(text)]


def find_checkouts(text: str) -> set[str]:
    """Return the folders of the checkouts that own the containers in the output of `docker compose ps`."""
    labels = [label for item in _parse_items(text) for label in item.get("Labels", "").split(",")]
    return {label.removeprefix(FOLDER_LABEL) for label in labels if label.startswith(FOLDER_LABEL)}


def _parse_items(text: str) -> list[dict[str, Any]]:
    """Parse the output of `docker compose ps`.

    The output is one JSON object per line. Versions of Compose before 2.21 print one JSON array.
    """
    if text.startswith("["):
        items: list[dict[str, Any]] = json.loads(text)
        return items
    return [json.loads(line) for line in text.splitlines()]


def _parse_container(item: Mapping[str, Any]) -> Container:
    service, state, health = item["Service"], item["State"], item.get("Health") or "healthy"
    is_done = service in ONE_SHOT and state == "exited" and item["ExitCode"] == 0
    published = {entry["PublishedPort"] for entry in item.get("Publishers") or () if entry["PublishedPort"]}
    return Container(
        service=service,
        state="done" if is_done else state,
        is_healthy=is_done or (state == "running" and health == "healthy"),
        ports=", ".join(f"{LOOPBACK}:{port}" for port in sorted(published)),
    )


def _are_complete(containers: list[Container], recorded: Mapping[str, str]) -> bool:
    """Return whether all services, including those of the profiles in use, have healthy containers."""
    services = {*SERVICES, *chain.from_iterable(ADDED_SERVICES[name] for name in list_profiles(recorded))}
    return {item.service for item in containers} >= services and all(item.is_healthy for item in containers)
