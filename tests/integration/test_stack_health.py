"""The overall health in `make status` equals that of the health document, the metrics and the dashboard."""

import pytest
from starlette.responses import PlainTextResponse

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import StackError
from core.settings.stack_identity import HEADER, build_identity
from core.stack.health import StackHealth, read_stack_health, refuse_other_stack
from core.stack.ports import find_free_port
from exporter.server import build_app
from tests.conftest import Execute
from tests.exporter_server import served
from tests.integration.test_health import STATES

LINES = {
    "healthy": "healthy",
    "redis disabled": "healthy",
    "redis down": "degraded: redis: Connection refused",
    "redis down and required": "unhealthy: redis: Connection refused",
    "pool exhausted": "degraded: a pool has no free connection (`echo-markets health` names it)",
    "migrations pending": "degraded: migrations pending: 1 (`make migrate` applies them)",
    "read-only": "degraded: database: it accepts no writes: default_transaction_read_only is on",
    "database down": "unhealthy: database: Connection refused",
}


def read_health(port: int) -> StackHealth:
    """Return the health of the stack, as `make status` reads it from the exporter on a port."""
    return read_stack_health({"EXPORTER_HOST": "127.0.0.1", "EXPORTER_PORT": str(port)})


@pytest.mark.parametrize("name", STATES)
def test_the_line_has_the_status_and_the_reasons(settings: Settings, execute: Execute, name: str) -> None:
    """In each state of the stack, the line has the expected status and the reasons for it."""
    state = STATES[name]
    with (
        open_service(state.change(settings)) as service,
        state.prepare(service, execute),
        served(build_app(service)) as port,
    ):
        health = read_health(port)
    assert str(health) == LINES[name]
    assert (health.status, health.is_healthy) == (state.status, state.status == "healthy")


def test_another_stacks_exporter_is_refused(service: EnhancedDatabaseService, settings: Settings) -> None:
    """An exporter of another stack at the recorded address gives the health "unknown", and is named."""
    url = settings.database_url.get_secret_value()
    other = build_identity("other-9f8e", url)
    with served(build_app(service, stack=other), headers=[(HEADER, str(other))]) as port:
        recorded = {
            "EXPORTER_HOST": "127.0.0.1",
            "EXPORTER_PORT": str(port),
            "DATABASE_URL": url,
            "STACK_NAME": "main-1a2b",
        }
        health = read_stack_health(recorded)
        expected = f"unknown: the exporter at http://127.0.0.1:{port} belongs to another stack, {other}"
        assert (str(health), health.is_healthy) == (expected, False)
        with pytest.raises(StackError, match=f"belongs to another stack, {other}: .* main-1a2b is not up"):
            refuse_other_stack(recorded)
        refuse_other_stack({**recorded, "STACK_NAME": "other-9f8e"})
    refuse_other_stack(recorded)  # no error if no server listens


def test_health_without_an_exporter_is_unknown() -> None:
    """The health is unknown if no server, or a server that is no exporter, listens on the port."""
    unknown = "unknown: the exporter gives no valid answer"
    with served(PlainTextResponse("hello"), lifespan="off") as port:
        assert str(read_health(port)) == unknown
    health = read_health(find_free_port())
    assert (str(health), health.is_healthy) == (unknown, False)
