"""Roles: the names of programs in their metrics, and the setting that limits them."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from prometheus_client.samples import Sample
from pydantic import SecretStr
from rich.console import Console

from core import Settings, open_service
from core.errors import InvalidInput, SettingsError
from core.metrics import Metrics, open_metrics
from core.metrics.names import MAX_ROLE, RESERVED_ROLES, STACK_ROLES
from core.metrics.scrape import Scrape, list_samples
from core.status import show_stats
from dashboard.pages.operations import charts

NOWHERE = SecretStr("postgresql://u:p@127.0.0.1:1/d")


def build_settings(**values: object) -> Settings:
    """Return settings of a process that connects to no server."""
    return Settings(database_url=NOWHERE, enable_redis_cache=False, **values)  # type: ignore[arg-type]  # as given


@pytest.mark.parametrize("role", ["my-api", "api", "batch-of-the-night", "a" * MAX_ROLE, *STACK_ROLES])
def test_a_program_chooses_its_role(role: str) -> None:
    """The role that a program passes to `open_service` is a label of its metrics."""
    with open_service(build_settings(), role=role) as service:
        found = [(item.name, item.labels, item.value) for item in list_samples(service.metrics.collect_own())]
    assert ("echo_db_pool_max_connections", {"role": role}, 10.0) in found
    assert ("echo_metrics_writers", {"role": role}, 1.0) in found


@pytest.mark.parametrize(
    "role",
    [
        *("", "My-Api", "api2", "worker-17", "my_api", "-api", "api-", "a--b", "a b", "a\nb", "é"),
        *("a" * (MAX_ROLE + 1), *RESERVED_ROLES, None, 7, []),
    ],
)
def test_an_invalid_role_is_refused(role: object) -> None:
    """A role consists of lower-case words; digits are refused, because each worker would be a new series."""
    with pytest.raises(InvalidInput, match="such as my-api"):
        open_service(build_settings(), role=role)  # type: ignore[arg-type]  # whatever it is


def test_a_list_limits_the_roles() -> None:
    """With METRICS_ROLES only the listed roles and the stack's own roles are allowed."""
    closed = build_settings(metrics_roles="my-api, my-worker")
    for role in ("my-api", "my-worker", "dashboard", "job"):
        open_service(closed, role=role).close()
    with pytest.raises(SettingsError, match=r"METRICS_ROLES is 'my-api, my-worker'.*'other-api'"):
        open_service(closed, role="other-api")


@pytest.mark.parametrize("text", ["My-Api", "a b", "api2", ";", "a,,b"])
def test_an_invalid_list_of_roles_is_refused(text: str) -> None:
    """An invalid role in METRICS_ROLES raises an error that names the setting."""
    with pytest.raises(SettingsError, match="METRICS_ROLES"):
        Settings.load(database_url=NOWHERE, metrics_roles=text)


def test_the_exporter_knows_the_roles_of_live_processes(tmp_path: Path) -> None:
    """The exporter lists its own role and the roles of live processes with the same folder."""
    own = open_metrics("exporter", tmp_path)
    api, ended = open_metrics("my-api", tmp_path), open_metrics("my-worker", tmp_path)
    assert own.list_roles() == {"exporter", "my-api", "my-worker"}
    ended.close()
    assert own.list_roles() == {"exporter", "my-api"}
    assert Metrics("exporter").list_roles() == {"exporter"}
    for metrics in (own, api):
        metrics.close()


def test_the_terminal_shows_the_pool_of_each_role() -> None:
    """The terminal shows the pool limit of every role, also of roles that the stack does not know."""
    pools = {"my-api": 10.0, "dashboard": 5.0, "drill": 2.0}
    samples = [Sample("echo_db_pool_max_connections", {"role": role}, limit) for role, limit in pools.items()]
    console = Console(width=140)
    with console.capture() as captured:
        show_stats(Scrape(samples, taken_at=datetime(2013, 3, 1, tzinfo=UTC)), "a test", console)
    lines = [line.split() for line in captured.get().splitlines()]
    shown = {line[0]: line[3] for line in lines if line and line[0] in pools}
    assert shown == {"my-api": "10", "dashboard": "5", "drill": "2"}


def build_use(roles: list[str]) -> pd.DataFrame:
    """Return the data of a chart in which each of these roles uses four connections."""
    return pd.DataFrame({"series": roles, "value": 4.0})


def test_each_role_has_its_own_colour() -> None:
    """Every role has a colour of its own, and other roles do not change the colours of the stack's roles."""
    spec = charts.build_pool_chart(build_use(["my-api", "job", "drill", "my-api"]))
    scale = spec["encoding"]["color"]["scale"]
    assert scale["domain"] == [*charts.ROLES, "drill", "my-api"]
    assert scale["range"][: len(charts.ROLES)] == list(charts.ROLES.values())
    assert len(set(scale["range"])) == len(scale["range"])
    many = charts.build_pool_chart(build_use([f"role{letter}" for letter in "abcdefgh"]))
    assert len(many["encoding"]["color"]["scale"]["range"]) == len(charts.ROLES) + 8
