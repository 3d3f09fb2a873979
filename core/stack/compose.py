"""The stack as containers: the same commands, carried out by Docker Compose.

Owns how compose is called and how its answers are read; what runs in which
container is in `compose.yaml`.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from core.release import find_revision
from core.stack.configuration import StackSettings
from core.stack.errors import StackError
from core.stack.folder import StackFolder
from core.stack.ports import LOOPBACK, check_ports
from core.stack.stack_health import read_stack_health

ENGINE_SECONDS = 8.0  # an engine that needs longer to say who it is does not work
QUERY_SECONDS = 60.0

PUBLISHED = {
    "postgres": "POSTGRES_PORT",
    "redis": "VALKEY_PORT",
    "exporter": "EXPORTER_PORT",
    "dashboard": "DASHBOARD_PORT",
    "prometheus": "PROMETHEUS_PORT",
}
ONE_SHOT = frozenset({"migrate", "seed"})
FOLDER_LABEL = "com.docker.compose.project.working_dir="
SERVICES = frozenset({*PUBLISHED, *ONE_SHOT, "simulator"})


class Container(NamedTuple):
    """One service's container as `docker compose ps` shows it."""

    service: str
    state: str
    is_healthy: bool
    ports: str


def find_engine_fault() -> str | None:
    """Return why containers cannot be used here, None when they can."""
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


class DockerStack:
    """The stack of one checkout in containers."""

    def __init__(self, folder: StackFolder, console: Console) -> None:
        self._folder = folder
        self._console = console

    def up(self, settings: StackSettings) -> None:
        """Build the image, start what does not run and wait until everything is healthy.

        Raises `StackError` when a port is taken, before anything is started, or
        when a container does not become healthy.
        """
        with self._folder.lock():
            containers = self._containers(self._environment(settings))
            recorded = docker_environment(settings, self._stack_name(settings))
            if self._folder.recorded() == recorded and _are_complete(containers):
                self._say("already running, nothing to do")
            else:
                self._check_ports(settings, containers)
                self._folder.docker_mark.touch()
                self._folder.record(recorded)
                self._bring_up(settings)
            self._show_addresses(settings)

    def down(self) -> None:
        """Remove the containers; the volumes, and with them the data, are kept."""
        with self._folder.lock():
            self._compose(["down", "--remove-orphans"])
            self._folder.stack_env.unlink(missing_ok=True)
        self._say("stopped, the data is kept")

    def status(self) -> bool:
        """Show every container and the health of the whole; say whether all is healthy."""
        containers = self._containers()
        table = Table("service", "state", "healthy", "address", box=None)
        for item in containers:
            table.add_row(item.service, item.state, "yes" if item.is_healthy else "no", item.ports)
        self._console.print(table)
        recorded = self._folder.recorded()
        if not recorded:
            # nothing was started, or its address was forgotten
            return _are_complete(containers)
        whole = read_stack_health(recorded)
        self._say(f"the stack is {whole}")
        return whole.is_healthy and _are_complete(containers)

    def logs(self, name: str | None, *, follow: bool) -> None:
        """Show the end of one service's output or of everyone's."""
        if name is not None and name not in SERVICES:
            raise StackError(f"there is no service {name!r}; choose one of {', '.join(sorted(SERVICES))}")
        options = ["--tail", "100", *(["--follow"] if follow else []), *([name] if name else [])]
        try:
            self._compose(["logs", *options])
        except KeyboardInterrupt:
            return

    def remove_volumes(self) -> None:
        """Remove the containers and the data that they have left."""
        with self._folder.lock():
            self._compose(["down", "--remove-orphans", "--volumes"])
        self._say("removed the containers and their volumes")

    def _bring_up(self, settings: StackSettings) -> None:
        try:
            self._compose(["up", "--build", "--detach", "--wait"], self._environment(settings))
        except StackError as error:
            remedy = "`make logs` shows more; after `make down`, MODE=local does without containers"
            raise StackError(f"{error}; {remedy}") from error

    def _environment(self, settings: StackSettings) -> dict[str, str]:
        """Return what compose.yaml is filled in with."""
        return {
            **os.environ,
            **settings.environment("docker"),
            "STACK_NAME": self._stack_name(settings),
            "POSTGRES_PASSWORD": settings.postgres_password.get_secret_value(),
            "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
            "REVISION": find_revision(self._folder.root),
            "SEED_PLAYERS": str(settings.seed_players),
            "SEED_SESSIONS": str(settings.seed_sessions),
        }

    def _stack_name(self, settings: StackSettings) -> str:
        return settings.stack_name or self._folder.load_stack_name()

    def _compose(self, arguments: list[str], environment: Mapping[str, str] | None = None) -> None:
        result = subprocess.run(
            ["docker", "compose", *arguments], cwd=self._folder.root, env=environment, check=False
        )
        if result.returncode != 0:
            command = f"docker compose {' '.join(arguments)}"
            raise StackError(f"`{command}` failed with status {result.returncode}, see above")

    def _containers(self, environment: Mapping[str, str] | None = None) -> list[Container]:
        command = ["docker", "compose", "ps", "--all", "--format", "json"]
        try:
            result = subprocess.run(
                command,
                cwd=self._folder.root,
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
        """Refuse to replace the containers of another checkout, whose folder has the same name."""
        others = checkouts - {str(self._folder.root)}
        if others:
            names = ", ".join(sorted(others))
            raise StackError(
                f"the containers belong to {names}; set COMPOSE_PROJECT_NAME to another name here"
            )

    def _check_ports(self, settings: StackSettings, containers: list[Container]) -> None:
        running = {item.service for item in containers if item.state == "running"}
        names = [name for service, name in PUBLISHED.items() if service not in running]
        ports = settings.ports("docker")
        check_ports({name: ports[name] for name in names}, hosts={})

    def _show_addresses(self, settings: StackSettings) -> None:
        exporter = f"http://{LOOPBACK}:{settings.exporter_port}"
        table = Table.grid(padding=(0, 2))
        table.add_row("Dashboard", f"http://{LOOPBACK}:{settings.dashboard_port}")
        table.add_row("Metrics", f"{exporter}/metrics")
        table.add_row("Health", f"{exporter}/api/health/database")
        table.add_row("Prometheus", f"http://{LOOPBACK}:{settings.prometheus_port}")
        self._console.print(table)
        self._say("`make status` shows it, `make logs` its output, `make down` stops it")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def docker_environment(settings: StackSettings, stack_name: str) -> dict[str, str]:
    """Return the variables that point a process of this machine at the containers, for `stack.env`."""
    password = settings.postgres_password.get_secret_value()
    database_url = f"postgresql://postgres:{password}@{LOOPBACK}:{settings.postgres_port}/echo_markets"
    return {
        **settings.environment("docker"),
        "STACK_NAME": stack_name,
        "DATABASE_URL": database_url,
        "DIRECT_URL": database_url,
        "REDIS_URL": f"redis://{LOOPBACK}:{settings.valkey_port}/0",
        "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
    }


def parse_containers(text: str) -> list[Container]:
    """Return the containers that `docker compose ps --format json` has printed."""
    return [_read_container(item) for item in _read_items(text)]


def find_checkouts(text: str) -> set[str]:
    """Return the folders from which the printed containers were started."""
    labels = [label for item in _read_items(text) for label in item.get("Labels", "").split(",")]
    return {label.removeprefix(FOLDER_LABEL) for label in labels if label.startswith(FOLDER_LABEL)}


def _read_items(text: str) -> list[dict[str, Any]]:
    """Read an array, or, as compose prints since 2.21, one object a line."""
    if text.startswith("["):
        items: list[dict[str, Any]] = json.loads(text)
        return items
    return [json.loads(line) for line in text.splitlines()]


def _read_container(item: Mapping[str, Any]) -> Container:
    service, state, health = item["Service"], item["State"], item.get("Health") or "healthy"
    is_done = service in ONE_SHOT and state == "exited" and item["ExitCode"] == 0
    published = {entry["PublishedPort"] for entry in item.get("Publishers") or () if entry["PublishedPort"]}
    return Container(
        service=service,
        state="done" if is_done else state,
        is_healthy=is_done or (state == "running" and health == "healthy"),
        ports=", ".join(f"{LOOPBACK}:{port}" for port in sorted(published)),
    )


def _are_complete(containers: list[Container]) -> bool:
    return {item.service for item in containers} >= SERVICES and all(item.is_healthy for item in containers)
