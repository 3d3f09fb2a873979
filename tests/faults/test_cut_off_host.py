"""The primary's host is cut off from the network and comes back, while its PostgreSQL keeps running."""

from collections.abc import Callable
from contextlib import ExitStack
from io import StringIO
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from core import Settings, open_service
from core.errors import DatabaseUnavailable, UserNotFound
from tests.chaos.failover import LOST_USERNAME, SHORT_TIMEOUTS, list_faults_of_host
from tests.chaos.load import run_load
from tests.chaos.report import run_faults
from tests.conftest import connected
from tests.faults.conftest import OwnValkey, on_valkey
from tests.hosts import Host
from tests.replication import DATABASE, Pair

pytestmark = pytest.mark.slow

# Long enough for every caller to meet the fault; `make chaos-failover` holds it longer.
HOLD_SECONDS = 1.0


def test_a_former_primary_is_not_used_when_its_host_returns(
    settings: Settings, server_directory: Callable[[], Path], valkey: OwnValkey, other_host: Host
) -> None:
    """After its host returns, a primary that was replaced is not used, and no acknowledged write is lost."""
    with ExitStack() as stack:
        pair = Pair(stack, server_directory, host=other_host)
        pair.make_synchronous()
        given = settings.model_copy(update={"database_url": pair.url, **SHORT_TIMEOUTS})
        on_pair = on_valkey(given, valkey.server, valkey.server.port)
        faults = [
            fault._replace(hold_seconds=HOLD_SECONDS) for fault in list_faults_of_host(pair, other_host)
        ]
        with run_load(on_pair) as load:
            rows = run_faults(faults, load, is_healthy=load.can_check_rows, console=Console(file=StringIO()))
        assert load.problems == []
        assert [row.has_passed for row in rows] == [True] * len(faults), rows
        assert min(row.figures.writes for row in rows) > 0
        with connected(pair.primary.url(DATABASE)) as run:
            assert run("SELECT count(*) FROM users WHERE username = %s", (LOST_USERNAME,)) == [(1,)]
        with open_service(on_pair) as service, pytest.raises(UserNotFound):
            service.get_user_by_username(LOST_USERNAME)
        only = SecretStr(pair.primary.url(DATABASE))
        with (
            open_service(on_pair.model_copy(update={"database_url": only})) as service,
            pytest.raises(DatabaseUnavailable, match="former primary"),
        ):
            service.get_user_by_username(LOST_USERNAME)
