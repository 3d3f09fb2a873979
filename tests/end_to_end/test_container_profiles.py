"""`make up PROFILE=replica,pooler,scale,sentinel`: four profiles together; tests stop a container of each.

The tests share one stack and run in any order: each test first runs `make up`, which is quick if the stack is
already up.
"""

import http.client
import json
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from core.settings.texts import LOOPBACK
from core.stack.processes import wait_until
from core.stack.profiles import SERVICES
from core.stack.redis_access import SENTINEL_SERVICE
from tests.end_to_end.browsing import visit, wait_until_complete
from tests.end_to_end.checkout import Checkout
from tests.end_to_end.containers import (
    PROJECT,
    assert_is_restricted,
    docker,
    inspect,
    is_healthy,
    kill_process,
    run_checkout,
)
from tests.patience import stretch

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]

PROFILE = "replica,pooler,scale,sentinel"
HEAL_SECONDS = 60.0
DASHBOARDS = (1, 2)
ON_REPLICA = 'server="replica"'
CLIENTS = """
    SELECT json_object_agg(usename, addresses) FROM (
        SELECT usename, array_agg(DISTINCT host(client_addr)) AS addresses FROM pg_stat_activity
        WHERE usename IN ('echo_markets_app', 'echo_markets_monitor', 'echo_markets_replication') GROUP BY 1
    ) AS clients"""
NEWEST_TICK = "SELECT max(timestamp) FROM ticks"
SENTINEL_COMMAND = (
    "REDISCLI_AUTH=$(sed -n 's/^sentinel sentinel-pass //p' /run/secrets/sentinel.conf)"
    " redis-cli -p 26379 --user sentinel --json sentinel"
)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """Yield one checkout for all tests of this module, with PROFILE set."""
    with run_checkout() as checkout:
        checkout.environment["PROFILE"] = PROFILE
        yield checkout


def read_metric(checkout: Checkout, name: str, *labels: str) -> float:
    """Return the sum of the samples of a metric that have these labels."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in checkout.get("exporter", "/metrics")[1].splitlines()
        if line.startswith(f"{name}{{") and all(label in line for label in labels)
    )


def call_service(service: str, expression: str, *arguments: str) -> str:
    """Evaluate an expression with the service `s` in a container of the stack; return the output."""
    code = f"import sys; from core import open_service\nwith open_service() as s: print({expression})"
    return docker("exec", f"{PROJECT}-{service}-1", "python", "-c", code, *arguments)


def read_name(service: str, user: str) -> str:
    """Return a player's name, read by the service in a container."""
    return call_service(service, "s.get_user_by_id(sys.argv[1]).name", user)


def query_sentinel(command: str) -> Any:
    """Return the reply of the second sentinel to a SENTINEL command about the primary."""
    answer = docker(
        "exec", f"{PROJECT}-sentinel-2-1", "sh", "-c", f"{SENTINEL_COMMAND} {command} {SENTINEL_SERVICE}"
    )
    return json.loads(answer)


def has_primary(*, other_than: str) -> bool:
    """Return whether the sentinels have elected another primary."""
    return bool(query_sentinel("get-master-addr-by-name")[0] != other_than)


def is_connected_replica(service: str) -> bool:
    """Return whether the sentinels list a Redis as a replica that is connected to its primary."""
    return any(
        found["ip"] == service and found["master-link-status"] == "ok" for found in query_sentinel("replicas")
    )


def wait_until_healthy(checkout: Checkout) -> None:
    """Wait until the health document's status is "healthy"."""
    assert wait_until(lambda: checkout.health()["status"] == "healthy", seconds=stretch(HEAL_SECONDS)), (
        checkout.health()
    )


def writes_ticks(checkout: Checkout) -> bool:
    """Return whether the simulator writes a new tick within 60 s."""
    before = checkout.select(NEWEST_TICK)
    return wait_until(lambda: checkout.select(NEWEST_TICK) != before, seconds=stretch(HEAL_SECONDS))


def test_all_profiles_run_together(checkout: Checkout) -> None:
    """With all four profiles the stack is healthy, and the containers of the profiles are restricted."""
    checkout.up()
    status = checkout.make("status")
    assert status.returncode == 0, status.stdout
    for service in (name for names in SERVICES.values() for name in names):
        assert_is_restricted(checkout, service)
    assert "already running" in checkout.up()
    # DNS rebinding: a request with a foreign host name is refused
    connection = http.client.HTTPConnection(LOOPBACK, checkout.ports["DASHBOARD_PORT"], timeout=10)
    connection.request("GET", "/", headers={"Host": "evil.example"})
    assert connection.getresponse().status == HTTPStatus.MISDIRECTED_REQUEST
    connection.close()


def test_programs_reach_the_primary_through_the_pooler_only(checkout: Checkout) -> None:
    """Programs connect only through PgBouncer, and a killed PgBouncer restarts no program."""
    checkout.up()
    [pooler] = inspect("pooler")["NetworkSettings"]["Networks"].values()
    replica = inspect("replica")["NetworkSettings"]["Networks"][f"{PROJECT}_data"]
    clients = checkout.select(CLIENTS)
    assert clients == {
        "echo_markets_app": [pooler["IPAddress"]],
        "echo_markets_monitor": [pooler["IPAddress"]],
        "echo_markets_replication": [replica["IPAddress"]],
    }
    programs = ("simulator", "exporter")
    before = [inspect(name)["State"]["StartedAt"] for name in programs]
    began = kill_process("pooler")
    assert wait_until(lambda: is_healthy("pooler", after=began), seconds=stretch(HEAL_SECONDS))
    wait_until_healthy(checkout)
    assert writes_ticks(checkout)
    assert [inspect(name)["State"]["StartedAt"] for name in programs] == before


def test_reads_run_on_the_replica_while_it_runs(checkout: Checkout) -> None:
    """Reads run on the primary while the replica is stopped, and otherwise on the replica."""
    checkout.up()

    def count_reads() -> float:
        return read_metric(checkout, "echo_db_reads_total", ON_REPLICA)

    def is_used_again(before: float) -> bool:
        return wait_until(lambda: count_reads() > before, seconds=stretch(HEAL_SECONDS))

    assert is_used_again(0)
    docker("stop", f"{PROJECT}-replica-1")
    assert wait_until(
        lambda: read_metric(checkout, "echo_db_replica_out", 'role="simulator"') == 1,
        seconds=stretch(HEAL_SECONDS),
    )
    assert writes_ticks(checkout)
    docker("start", f"{PROJECT}-replica-1")
    assert wait_until(lambda: is_healthy("replica"), seconds=stretch(HEAL_SECONDS))
    assert is_used_again(count_reads())


def test_a_page_continues_after_its_dashboard_is_killed(checkout: Checkout, browser: Browser) -> None:
    """When either of two dashboards is killed, an open page continues on the other."""
    checkout.up()
    page = browser.new_page()
    visit(page, f"http://{LOOPBACK}:{checkout.ports['DASHBOARD_PORT']}/")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    for number in DASHBOARDS:
        assert wait_until(partial(is_healthy, "dashboard", number), seconds=stretch(HEAL_SECONDS))
        began = kill_process("dashboard", number)
        assert wait_until(partial(is_dashboard_reachable, checkout), seconds=stretch(HEAL_SECONDS))
        wait_until_complete(page)
        is_back = partial(is_healthy, "dashboard", number, after=began)
        assert wait_until(is_back, seconds=stretch(HEAL_SECONDS))
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    page.close()


def is_dashboard_reachable(checkout: Checkout) -> bool:
    """Return whether a dashboard answers through HAProxy."""
    try:
        return checkout.get("dashboard", "/livez")[0] == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def test_sentinels_promote_the_other_redis(checkout: Checkout) -> None:
    """After the primary Redis is killed, a read is not stale and the old primary becomes a replica."""
    checkout.up()
    alice = call_service("simulator", "s.create_user(username=sys.argv[1]).id", "alice")
    for name in ("first failover", "second failover"):
        primary = query_sentinel("get-master-addr-by-name")[0]
        read_name("dashboard", alice)  # fills the cache
        docker("kill", f"{PROJECT}-{primary}-1")
        assert wait_until(partial(has_primary, other_than=primary), seconds=stretch(HEAL_SECONDS))
        call_service("simulator", "s.update_user_profile(sys.argv[1], name=sys.argv[2])", alice, name)
        assert read_name("dashboard", alice) == name
        wait_until_healthy(checkout)
        docker("start", f"{PROJECT}-{primary}-1")
        assert wait_until(partial(is_connected_replica, primary), seconds=stretch(HEAL_SECONDS))
        assert read_name("dashboard", alice) == name


def test_make_commands_reach_the_servers_of_the_containers(checkout: Checkout) -> None:
    """`make migrate` and `stack run` work although only containers can resolve the primary's name."""
    checkout.up()
    shown = checkout.make("migrate", "ARGS=status")
    assert shown.returncode == 0, shown.stdout
    assert "applied" in shown.stdout
    health = checkout.python("-m", "core.cli", "stack", "run", "health")
    assert health.returncode == 0, health.stdout
    assert "redis" in health.stdout
    wrong = checkout.python("-m", "core.cli", "stack", "run", "seed", "--players", "-1")
    assert wrong.returncode == 2
