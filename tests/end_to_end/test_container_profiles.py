"""`make up PROFILE=replica,pooler,scale,sentinel`: four topologies at once, each of which loses a container.

The tests share one stack, in any order: each brings it up first, which is quick when it is up already.
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
    assert_can_do_little,
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
ASK_SENTINEL = (
    "REDISCLI_AUTH=$(sed -n 's/^sentinel sentinel-pass //p' /run/secrets/sentinel.conf)"
    " redis-cli -p 26379 --user sentinel --json sentinel"
)


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """One stack for all tests of this file."""
    with run_checkout() as checkout:
        checkout.environment["PROFILE"] = PROFILE
        yield checkout


def read_metric(checkout: Checkout, name: str, *labels: str) -> float:
    """Return the sum of a metric over all processes, of the samples that have these labels."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in checkout.get("exporter", "/metrics")[1].splitlines()
        if line.startswith(f"{name}{{") and all(label in line for label in labels)
    )


def call(service: str, expression: str, *arguments: str) -> str:
    """Call the service `s` in a container, where the servers of a failover have their names."""
    code = f"import sys; from core import open_service\nwith open_service() as s: print({expression})"
    return docker("exec", f"{PROJECT}-{service}-1", "python", "-c", code, *arguments)


def read_name(service: str, user: str) -> str:
    """Return the name of a player as a container reads it."""
    return call(service, "s.get_user_by_id(sys.argv[1]).name", user)


def ask_sentinel(command: str) -> Any:
    """Return what the second sentinel says of the service."""
    answer = docker(
        "exec", f"{PROJECT}-sentinel-2-1", "sh", "-c", f"{ASK_SENTINEL} {command} {SENTINEL_SERVICE}"
    )
    return json.loads(answer)


def has_primary(*, other_than: str) -> bool:
    """Say whether the sentinels have elected another Redis."""
    return bool(ask_sentinel("get-master-addr-by-name")[0] != other_than)


def follows(service: str) -> bool:
    """Say whether the sentinels know a Redis as a replica with a link to its primary."""
    return any(
        found["ip"] == service and found["master-link-status"] == "ok" for found in ask_sentinel("replicas")
    )


def wait_until_healthy(checkout: Checkout) -> None:
    """Return once the health document says so."""
    assert wait_until(lambda: checkout.health()["status"] == "healthy", seconds=stretch(HEAL_SECONDS)), (
        checkout.health()
    )


def grows(checkout: Checkout) -> bool:
    """Say whether the simulator writes new ticks within a while."""
    before = checkout.select(NEWEST_TICK)
    return wait_until(lambda: checkout.select(NEWEST_TICK) != before, seconds=stretch(HEAL_SECONDS))


def test_all_profiles_run_together(checkout: Checkout) -> None:
    """All of it is healthy, and what the profiles add can do as little as the rest."""
    checkout.up()
    status = checkout.make("status")
    assert status.returncode == 0, status.stdout
    for service in (name for names in SERVICES.values() for name in names):
        assert_can_do_little(checkout, service)
    assert "already running" in checkout.up()
    # a page whose name leads to this machine reads nothing
    connection = http.client.HTTPConnection(LOOPBACK, checkout.ports["DASHBOARD_PORT"], timeout=10)
    connection.request("GET", "/", headers={"Host": "evil.example"})
    assert connection.getresponse().status == HTTPStatus.MISDIRECTED_REQUEST
    connection.close()


def test_programs_reach_the_primary_through_the_pooler_only(checkout: Checkout) -> None:
    """Only the replica connects directly, as its role; a killed pooler costs no program its life."""
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
    assert grows(checkout)
    assert [inspect(name)["State"]["StartedAt"] for name in programs] == before


def test_reads_run_on_the_replica_while_there_is_one(checkout: Checkout) -> None:
    """Without the replica the primary answers; a new replica copies the primary and is used again."""
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
    assert grows(checkout)
    docker("start", f"{PROJECT}-replica-1")
    assert wait_until(lambda: is_healthy("replica"), seconds=stretch(HEAL_SECONDS))
    assert is_used_again(count_reads())


def test_a_killed_dashboard_costs_its_visitors_a_reconnect(checkout: Checkout, browser: Browser) -> None:
    """Their page continues at the other dashboard, whichever of the two ends."""
    checkout.up()
    page = browser.new_page()
    visit(page, f"http://{LOOPBACK}:{checkout.ports['DASHBOARD_PORT']}/")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    for number in DASHBOARDS:
        assert wait_until(partial(is_healthy, "dashboard", number), seconds=stretch(HEAL_SECONDS))
        began = kill_process("dashboard", number)
        assert wait_until(partial(answers, checkout), seconds=stretch(HEAL_SECONDS))
        wait_until_complete(page)
        is_back = partial(is_healthy, "dashboard", number, after=began)
        assert wait_until(is_back, seconds=stretch(HEAL_SECONDS))
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    page.close()


def answers(checkout: Checkout) -> bool:
    """Say whether HAProxy has a dashboard that answers."""
    try:
        return checkout.get("dashboard", "/livez")[0] == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def test_sentinels_promote_the_other_redis(checkout: Checkout) -> None:
    """Nothing is stale, and the former primary follows; then the same in the other direction."""
    checkout.up()
    alice = call("simulator", "s.create_user(username=sys.argv[1]).id", "alice")
    for name in ("there", "and back"):
        primary = ask_sentinel("get-master-addr-by-name")[0]
        read_name("dashboard", alice)  # fills the cache
        docker("kill", f"{PROJECT}-{primary}-1")
        assert wait_until(partial(has_primary, other_than=primary), seconds=stretch(HEAL_SECONDS))
        call("simulator", "s.update_user_profile(sys.argv[1], name=sys.argv[2])", alice, name)
        assert read_name("dashboard", alice) == name
        wait_until_healthy(checkout)
        docker("start", f"{PROJECT}-{primary}-1")
        assert wait_until(partial(follows, primary), seconds=stretch(HEAL_SECONDS))
        assert read_name("dashboard", alice) == name


def test_commands_of_this_machine_run_where_the_primary_has_a_name(checkout: Checkout) -> None:
    """`make migrate` and `make seed` change cached rows, so both commands must find the Redis in use."""
    checkout.up()
    shown = checkout.make("migrate", "ARGS=status")
    assert shown.returncode == 0, shown.stdout
    assert "applied" in shown.stdout
    health = checkout.python("-m", "core.cli", "stack", "run", "health")
    assert health.returncode == 0, health.stdout
    assert "redis" in health.stdout
    wrong = checkout.python("-m", "core.cli", "stack", "run", "seed", "--players", "-1")
    assert wrong.returncode == 2
