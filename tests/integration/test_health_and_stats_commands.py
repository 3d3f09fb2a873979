"""`echo-markets health` and `echo-markets stats`: what they print and how they exit."""

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
    """Run a command with the test's servers, and changes to its environment."""

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
    """Return an address that nobody listens on."""
    return f"{scheme}://127.0.0.1:{find_free_port()}"


def test_the_fleet_comes_from_the_exporter(run: Run, service: EnhancedDatabaseService) -> None:
    """Roles, caches and operations of every process are shown, with the exporter's status."""
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
    """It shows the same tables, and a line that says why they are of one process."""
    for command in ("health", "stats"):
        result = run(command)
        assert result.exit_code == 0, result.output
        assert "this process alone" in result.output
        assert "job" in result.output


def test_without_redis_it_is_degraded(run: Run) -> None:
    """The exit status is 3."""
    result = run("health", REDIS_URL=f"{closed_url('redis')}/0")
    assert result.exit_code == 3
    assert "degraded" in result.output
    assert any(line.split()[:2] == ["redis", "down,"] for line in result.output.splitlines())


def test_a_redis_that_refuses_is_degraded_with_its_words(
    run: Run, settings: Settings, redis_client: redis.Redis, valkey_server: ValkeyServer
) -> None:
    """The exporter and the single process show the same reason on a line of its own."""
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


def test_without_a_database_it_is_unhealthy(run: Run) -> None:
    """The exit status is 1; the state is named, without an address or password."""
    url = closed_url("postgresql").replace("//", "//echo:s3cr3t@") + "/echo"
    result = run("health", DATABASE_URL=url)
    assert result.exit_code == 1
    assert "unhealthy" in result.output
    assert "s3cr3t" not in result.output


@contextmanager
def exporting(service: EnhancedDatabaseService, stack: StackIdentity | None) -> Iterator[str]:
    """Serve an exporter that says which stack it belongs to; yields its port."""
    options = {} if stack is None else {"headers": [(HEADER, str(stack))]}
    with served(build_app(service, stack=stack), **options) as port:
        yield str(port)


def test_the_exporter_of_the_same_stack_is_named(
    run: Run, service: EnhancedDatabaseService, settings: Settings
) -> None:
    """It is named by its name if both have one, else by the database."""
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
def test_another_stack_is_refused(
    run: Run,
    service: EnhancedDatabaseService,
    settings: Settings,
    command: str,
    name: str | None,
    url: str | None,
) -> None:
    """One line names both stacks, and the exit status is 2."""
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


def test_an_exporter_that_is_named_is_meant(run: Run, service: EnhancedDatabaseService) -> None:
    """EXPORTER_URL selects it, also on another machine; the output says whose it is."""
    other = build_identity("production", "postgresql://db.example/game")
    with exporting(service, other) as port:
        result = run("health", EXPORTER_URL=f"http://127.0.0.1:{port}", STACK_NAME="main-1a2b")
    assert result.exit_code == 0, result.output
    assert f"from the exporter of stack {other}" in result.output


def test_a_server_that_is_no_exporter_of_ours_is_not_asked(run: Run) -> None:
    """The node exporter of Prometheus has the same default port, and is ignored."""
    with serving(lambda _: (200, b"# TYPE up gauge\nup 1\n")) as url:
        result = run("health", EXPORTER_PORT=url.rpartition(":")[2])
    assert result.exit_code == 0, result.output
    assert f"this process alone; what answers at {url} is no exporter of Echo Markets" in result.output


def test_the_health_document_says_whose_it_is(service: EnhancedDatabaseService) -> None:
    """It has the same id as the header of every answer."""
    stack = build_identity("main-1a2b", "postgresql://db.example/game")
    with exporting(service, stack) as port:
        for path in ("/", "/livez", "/readyz", "/metrics", "/api/health/database", "/nothing"):
            answer = fetch(f"http://127.0.0.1:{port}{path}", timeout_seconds=5)
            assert answer.headers[HEADER.lower()] == str(stack)
        document = json.loads(fetch(f"http://127.0.0.1:{port}/api/health/database", timeout_seconds=5).body)
    assert document["stack"] == str(stack)


def test_an_exporter_without_a_status_is_no_health(run: Run) -> None:
    """A page with other metrics does not count as a healthy stack."""
    with serving(lambda _: (200, b"# TYPE up gauge\nup 1\n")) as url:
        result = run("health", EXPORTER_URL=url)
    assert result.exit_code == 1
    assert "unknown" in result.output
