"""`echo-markets health` and `echo-markets stats`: what they print and how they exit."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from core import EnhancedDatabaseService, Settings
from core.cli import main
from core.local.ports import find_free_port
from exporter.exposition import build_exposition
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
    """Roles, caches and operations of every process, under the exporter's status."""
    user = service.create_user(username="alice")
    for _ in range(3):
        service.get_user_by_id(user.id)
    with serving(lambda _: (200, build_exposition(service, None))) as url:
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
    """The same tables, and a line that says why they show one process."""
    for command in ("health", "stats"):
        result = run(command)
        assert result.exit_code == 0, result.output
        assert "this process alone" in result.output
        assert "job" in result.output


def test_without_redis_it_is_degraded(run: Run) -> None:
    """Exit status 3: it serves, but not as it should."""
    result = run("health", REDIS_URL=f"{closed_url('redis')}/0")
    assert result.exit_code == 3
    assert "degraded" in result.output
    assert any(line.split()[:2] == ["redis", "down,"] for line in result.output.splitlines())


def test_without_a_database_it_is_unhealthy(run: Run) -> None:
    """Exit status 1, the state by name, and no address or password."""
    url = closed_url("postgresql").replace("//", "//echo:s3cr3t@") + "/echo"
    result = run("health", DATABASE_URL=url)
    assert result.exit_code == 1
    assert "unhealthy" in result.output
    assert "s3cr3t" not in result.output


def test_an_exporter_without_a_status_is_no_health(run: Run) -> None:
    """A page of other metrics does not pass for a healthy stack."""
    with serving(lambda _: (200, b"# TYPE up gauge\nup 1\n")) as url:
        result = run("health", EXPORTER_URL=url)
    assert result.exit_code == 1
    assert "unknown" in result.output
