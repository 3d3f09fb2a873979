"""Roles: what a program calls itself in metrics, closed by configuration."""

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


def settings(**values: object) -> Settings:
    """Return settings of a process that reaches no server."""
    return Settings(database_url=NOWHERE, enable_redis_cache=False, **values)  # type: ignore[arg-type]  # as given


@pytest.mark.parametrize("role", ["my-api", "api", "batch-of-the-night", "a" * MAX_ROLE, *STACK_ROLES])
def test_a_program_gives_itself_a_name(role: str) -> None:
    """The name is a label of its metrics; no program of the stack needs a change."""
    with open_service(settings(), role=role) as service:
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
def test_another_form_is_refused(role: object) -> None:
    """The error names the form; with numbers each of many processes would have its own series."""
    with pytest.raises(InvalidInput, match="such as my-api"):
        open_service(settings(), role=role)  # type: ignore[arg-type]  # whatever it is


def test_a_list_closes_the_roles() -> None:
    """With METRICS_ROLES only the roles in it and those of the stack are allowed."""
    closed = settings(metrics_roles="my-api, my-worker")
    for role in ("my-api", "my-worker", "dashboard", "job"):
        open_service(closed, role=role).close()
    with pytest.raises(SettingsError, match=r"METRICS_ROLES is 'my-api, my-worker'.*'other-api'"):
        open_service(closed, role="other-api")


@pytest.mark.parametrize("text", ["My-Api", "a b", "api2", ";", "a,,b"])
def test_a_wrong_list_is_refused(text: str) -> None:
    """With a misspelt name the program would not start."""
    with pytest.raises(SettingsError, match="METRICS_ROLES"):
        Settings.load(database_url=NOWHERE, metrics_roles=text)


def test_the_exporter_knows_the_roles_of_live_processes(tmp_path: Path) -> None:
    """These are its own role and those of live processes that share the folder."""
    own = open_metrics("exporter", tmp_path)
    api, ended = open_metrics("my-api", tmp_path), open_metrics("my-worker", tmp_path)
    assert own.list_roles() == {"exporter", "my-api", "my-worker"}
    ended.close()
    assert own.list_roles() == {"exporter", "my-api"}
    assert Metrics("exporter").list_roles() == {"exporter"}
    for metrics in (own, api):
        metrics.close()


def test_the_terminal_shows_the_pool_of_each_role() -> None:
    """The name of the role does not matter."""
    pools = {"my-api": 10.0, "dashboard": 5.0, "drill": 2.0}
    samples = [Sample("echo_db_pool_max_connections", {"role": role}, limit) for role, limit in pools.items()]
    console = Console(width=140)
    with console.capture() as captured:
        show_stats(Scrape(samples, taken_at=datetime(2013, 3, 1, tzinfo=UTC)), "a test", console)
    lines = [line.split() for line in captured.get().splitlines()]
    shown = {line[0]: line[3] for line in lines if line and line[0] in pools}
    assert shown == {"my-api": "10", "dashboard": "5", "drill": "2"}


def use_by(roles: list[str]) -> pd.DataFrame:
    """Return the data of a chart in which each role uses connections."""
    return pd.DataFrame({"series": roles, "value": 4.0})


def test_each_role_has_a_line_of_its_own_colour() -> None:
    """The roles of the stack keep their colours, whatever other roles exist."""
    spec = charts.build_pool_chart(use_by(["my-api", "job", "drill", "my-api"]))
    scale = spec["encoding"]["color"]["scale"]
    assert scale["domain"] == [*charts.ROLES, "drill", "my-api"]
    assert scale["range"][: len(charts.ROLES)] == list(charts.ROLES.values())
    assert len(set(scale["range"])) == len(scale["range"])
    many = charts.build_pool_chart(use_by([f"role{letter}" for letter in "abcdefgh"]))
    assert len(many["encoding"]["color"]["scale"]["range"]) == len(charts.ROLES) + 8
