"""The overall health in `make status`: the same as in the document, the metrics and the dashboard."""

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


def ask(port: int) -> StackHealth:
    """Return the health of the stack whose exporter listens on a port."""
    return read_stack_health({"EXPORTER_HOST": "127.0.0.1", "EXPORTER_PORT": str(port)})


@pytest.mark.parametrize("name", STATES)
def test_the_line_has_the_status_and_the_reasons(settings: Settings, execute: Execute, name: str) -> None:
    """It has every status on which the document, the metrics and the dashboard agree."""
    state = STATES[name]
    with (
        open_service(state.change(settings)) as service,
        state.prepare(service, execute),
        served(build_app(service)) as port,
    ):
        whole = ask(port)
    assert str(whole) == LINES[name]
    assert (whole.status, whole.is_healthy) == (state.status, state.status == "healthy")


def test_another_stacks_exporter_is_not_believed(
    service: EnhancedDatabaseService, settings: Settings
) -> None:
    """An old record has its address, and it answers for another stack."""
    url = settings.database_url.get_secret_value()
    other = build_identity("other-9f8e", url)
    with served(build_app(service, stack=other), headers=[(HEADER, str(other))]) as port:
        recorded = {
            "EXPORTER_HOST": "127.0.0.1",
            "EXPORTER_PORT": str(port),
            "DATABASE_URL": url,
            "STACK_NAME": "main-1a2b",
        }
        whole = read_stack_health(recorded)
        expected = f"unknown: the exporter at http://127.0.0.1:{port} belongs to another stack, {other}"
        assert (str(whole), whole.is_healthy) == (expected, False)
        with pytest.raises(StackError, match=f"belongs to another stack, {other}: .* main-1a2b is not up"):
            refuse_other_stack(recorded)
        refuse_other_stack({**recorded, "STACK_NAME": "other-9f8e"})
    refuse_other_stack(recorded)  # nobody answers any more


def test_an_exporter_that_does_not_answer_says_nothing() -> None:
    """No server listens, or another server has its port."""
    unknown = "unknown: the exporter gives no valid answer"
    with served(PlainTextResponse("hello"), lifespan="off") as port:
        assert str(ask(port)) == unknown
    found = ask(find_free_port())
    assert (str(found), found.is_healthy) == (unknown, False)
