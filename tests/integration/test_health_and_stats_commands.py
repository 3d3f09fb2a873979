"""Output and exit status of the commands `echo-markets health` and `echo-markets stats`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from click.testing import CliRunner, Result
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.cli import main
from core.http_client import fetch
from core.settings.stack_identity import HEADER, StackIdentity, build_identity
from core.stack.ports import find_free_port
from core.testing import ValkeyServer
from exporter.exposition import Exposition
from exporter.server import build_app
from tests.exporter_server import served
from tests.web import serving

Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command with the test's servers and additional environment variables."""

    def invoke(command: str, **environment: str) -> Result:
        known = {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "REDIS_PASSWORD": settings.redis_password.get_secret_value() if settings.redis_password else "",
            "EXPORTER_PORT": str(find_free_port()),
        }
        for name, value in {**known, **environment}.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, [command])

    return invoke


def closed_url(scheme: str) -> str:
    """Return a URL with a local port on which no server listens."""
    return f"{scheme}://127.0.0.1:{find_free_port()}"


def test_the_commands_show_all_processes_from_the_exporter(
    run: Run, service: EnhancedDatabaseService
) -> None:
    """`stats` shows caches and operations of all processes, and `health` the status, from the exporter."""
    user = service.create_user(username="alice")
    for _ in range(3):
        service.get_user_by_id(user.id)
    with serving(lambda _: (200, Exposition(service).build())) as url:
        stats, health = run("stats", EXPORTER_URL=url), run("health", EXPORTER_URL=url)
    assert (stats.exit_code, health.exit_code) == (0, 0), stats.output
    assert "from the exporter" in stats.output
    rows = [line.split() for line in stats.output.splitlines()]
    [reads] = [int(row[2]) for row in rows if row[:2] == ["user", "near"]]
    assert reads == service.cache_stats().caches["user"].near_requests
    assert ["user", "shared"] in [row[:2] for row in rows]
    assert "create_user" in stats.output
    assert "healthy" in health.output


def test_without_an_exporter_the_process_checks_itself(run: Run) -> None:
    """Without an exporter both commands show their own process and a line that says so."""
    for command in ("health", "stats"):
        result = run(command)
        assert result.exit_code == 0, result.output
        assert "this process alone" in result.output
        assert "job" in result.output


def test_health_without_redis_is_degraded(run: Run) -> None:
    """If Redis does not answer, `health` prints "degraded" and exits with 3."""
    result = run("health", REDIS_URL=f"{closed_url('redis')}/0")
    assert result.exit_code == 3
    assert "degraded" in result.output
    assert any(line.split()[:2] == ["redis", "down,"] for line in result.output.splitlines())


def test_a_refusing_redis_is_degraded_with_its_message(
    run: Run, settings: Settings, redis_client: redis.Redis, valkey_server: ValkeyServer
) -> None:
    """If Redis refuses a command, `health` prints Redis's message, with and without an exporter."""
    rules = "on >secret ~* +@all -time"
    redis_client.execute_command("ACL", "SETUSER", "figures", *rules.split())  # type: ignore[no-untyped-call]  # has no annotations
    url = valkey_server.url.replace("//", "//figures:secret@")
    refused = settings.model_copy(update={"redis_url": SecretStr(url)})
    try:
        with open_service(refused) as service, exporting(service, None) as port:
            results = run("health", REDIS_URL=url, EXPORTER_PORT=port), run("health", REDIS_URL=url)
    finally:
        redis_client.execute_command("ACL", "DELUSER", "figures")  # type: ignore[no-untyped-call]  # as above
    for result in results:
        assert result.exit_code == 3
        assert any(line.split()[:2] == ["redis", "down,"] for line in result.output.splitlines())
        assert "has no permissions to run the 'time' command (refused: TIME)" in result.output
        assert valkey_server.url.split("//")[1].split("/")[0] not in result.output


def test_health_without_a_database_is_unhealthy(run: Run) -> None:
    """If the database is down, `health` prints "unhealthy" without the password and exits with 1."""
    url = closed_url("postgresql").replace("//", "//echo:s3cr3t@") + "/echo"
    result = run("health", DATABASE_URL=url)
    assert result.exit_code == 1
    assert "unhealthy" in result.output
    assert "s3cr3t" not in result.output


@contextmanager
def exporting(service: EnhancedDatabaseService, stack: StackIdentity | None) -> Iterator[str]:
    """Serve the exporter of a stack, and yield its port."""
    options = {} if stack is None else {"headers": [(HEADER, str(stack))]}
    with served(build_app(service, stack=stack), **options) as port:
        yield str(port)


def test_the_output_names_the_exporters_stack(
    run: Run, service: EnhancedDatabaseService, settings: Settings
) -> None:
    """`health` uses the exporter of the same database, with or without stack names, and names its stack."""
    url = settings.database_url.get_secret_value()
    for exporters, own in (("main-1a2b", "main-1a2b"), ("main-1a2b", ""), (None, "main-1a2b"), (None, "")):
        stack = build_identity(exporters, url)
        with exporting(service, stack) as port:
            result = run("health", EXPORTER_PORT=port, STACK_NAME=own)
        assert result.exit_code == 0, result.output
        assert f"from the exporter of stack {stack}, all processes" in result.output


@pytest.mark.parametrize("command", ["health", "stats"])
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("other-9f8e", None),
        (None, "postgresql://db.example/game"),
        ("other-9f8e", "postgresql://db.example/game"),
    ],
)
def test_the_exporter_of_another_stack_is_refused(
    run: Run,
    service: EnhancedDatabaseService,
    settings: Settings,
    command: str,
    name: str | None,
    url: str | None,
) -> None:
    """If the exporter on EXPORTER_PORT belongs to another stack, the command names both and exits with 2."""
    own_url = settings.database_url.get_secret_value()
    other = build_identity(name, url or own_url)
    with exporting(service, other) as port:
        result = run(command, EXPORTER_PORT=port, STACK_NAME="main-1a2b")
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert f"the exporter at http://127.0.0.1:{port} belongs to the stack {other}" in line
    assert f"the stack {build_identity('main-1a2b', own_url)} on the database 127.0.0.1:" in line
    assert "EXPORTER_URL" in line
    assert "postgres:" not in line


def test_exporter_url_selects_the_exporter_of_any_stack(run: Run, service: EnhancedDatabaseService) -> None:
    """The exporter at EXPORTER_URL is used even if it belongs to another stack, which the output names."""
    other = build_identity("production", "postgresql://db.example/game")
    with exporting(service, other) as port:
        result = run("health", EXPORTER_URL=f"http://127.0.0.1:{port}", STACK_NAME="main-1a2b")
    assert result.exit_code == 0, result.output
    assert f"from the exporter of stack {other}" in result.output


def test_another_programs_exporter_is_ignored(run: Run) -> None:
    """A server on EXPORTER_PORT that is no exporter of Echo Markets is ignored and named in the output."""
    with serving(lambda _: (200, b"# TYPE up gauge\nup 1\n")) as url:
        result = run("health", EXPORTER_PORT=url.rpartition(":")[2])
    assert result.exit_code == 0, result.output
    assert f"this process alone; what answers at {url} is no exporter of Echo Markets" in result.output


def test_every_answer_of_the_exporter_names_its_stack(service: EnhancedDatabaseService) -> None:
    """The health document and the header of every response contain the id of the stack."""
    stack = build_identity("main-1a2b", "postgresql://db.example/game")
    with exporting(service, stack) as port:
        for path in ("/", "/livez", "/readyz", "/metrics", "/api/health/database", "/nothing"):
            answer = fetch(f"http://127.0.0.1:{port}{path}", timeout_seconds=5)
            assert answer.headers[HEADER.lower()] == str(stack)
        document = json.loads(fetch(f"http://127.0.0.1:{port}/api/health/database", timeout_seconds=5).body)
    assert document["stack"] == str(stack)


def test_metrics_without_a_health_status_are_unknown(run: Run) -> None:
    """If the metrics of EXPORTER_URL lack the health status, `health` prints "unknown" and exits with 1."""
    with serving(lambda _: (200, b"# TYPE up gauge\nup 1\n")) as url:
        result = run("health", EXPORTER_URL=url)
    assert result.exit_code == 1
    assert "unknown" in result.output
