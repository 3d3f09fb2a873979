"""The health line of the pages: problems, incidents, and the server messages that visitors see."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from core.records import Health, PoolUse
from dashboard.health_line import build_health_line
from dashboard.monitoring.alerts import Alert
from dashboard.monitoring.incidents import (
    MAX_INCIDENTS,
    SETTLING_SECONDS,
    IncidentLog,
    Problem,
    find_problems,
)
from dashboard.monitoring.sampler import Sampler, StackSample

NOW = datetime(2013, 3, 1, 3, 12, 5, tzinfo=UTC)
HEALTHY = Health(
    status="healthy",
    timestamp=NOW,
    database="healthy",
    database_seconds=0.01,
    migrations_pending=0,
    migrations_applied=15,
    redis="healthy",
    redis_enabled=True,
    redis_seconds=0.01,
    redis_reason=None,
    pool=PoolUse(10, 1, 1, 0, 0, is_exhausted=False),
)
REDIS_DOWN = {"status": "degraded", "redis": "unhealthy", "redis_reason": "Connection refused"}
STARTED = NOW - timedelta(hours=2)


def build_health(**changes: Any) -> Health:
    """Return the result of a healthy check with these fields changed."""
    return msgspec.structs.replace(HEALTHY, **changes)


def write_line(
    log: IncidentLog,
    health: Health,
    *,
    alerts: Iterable[Alert] = (),
    seconds: float = 0.0,
    shows_reasons: bool = True,
    is_current: bool = True,
) -> str:
    """Return the health line for a check at this number of seconds after NOW."""
    moment = NOW + timedelta(seconds=seconds)
    problems = tuple(log.add_alerts(find_problems(health), alerts, clock=seconds))
    log.update(problems, clock=seconds, moment=moment)
    sample = StackSample(
        clock=seconds,
        health=health,
        problems=problems,
        incidents=log.list_incidents(),
        metrics=None,
        error=None,
        alerts=tuple(alerts),
        alerts_source="dashboard",
    )
    sampler = SimpleNamespace(latest=sample, is_current=is_current, started_at=STARTED)
    return build_health_line(cast("Sampler", sampler), now=moment, shows_reasons=shows_reasons)


def test_the_line_without_incidents() -> None:
    """Without an incident the line shows since when the health has been watched."""
    line = write_line(IncidentLog(), HEALTHY)
    assert line == ":green-badge[All healthy] · no incident; watching since 01:12 UTC"


def test_an_outage_becomes_an_incident() -> None:
    """During an outage the line shows begin, problem and server message; afterwards it shows the duration."""
    log = IncidentLog()
    down = write_line(log, build_health(**REDIS_DOWN))
    assert down == (
        ":orange-badge[Degraded] since 03:12:05 UTC: Redis does not answer (Connection refused) · "
        "[see Operations](operations)"
    )
    still = write_line(log, build_health(**REDIS_DOWN), seconds=9)
    assert "since 03:12:05 UTC" in still
    over = write_line(log, HEALTHY, seconds=14)
    assert over == (
        ":green-badge[All healthy] · last incident: Redis down for 14 s (Connection refused), 03:12 UTC"
    )
    [incident] = log.list_incidents()
    assert (incident.began_at, incident.ended_at) == (NOW, NOW + timedelta(seconds=14))


def test_server_messages_can_be_hidden() -> None:
    """With `shows_reasons=False` the line shows that Redis is down, but not the message of the server."""
    log = IncidentLog()
    assert "refused" not in write_line(log, build_health(**REDIS_DOWN), shows_reasons=False)
    over = write_line(log, HEALTHY, seconds=75, shows_reasons=False)
    assert over.endswith("last incident: Redis down for 1 min 15 s, 03:12 UTC")


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        (
            {"status": "unhealthy", "database": "unhealthy", "database_reason": "Connection refused"},
            "Unhealthy",
            "PostgreSQL does not answer",
        ),
        (
            {"status": "degraded", "database": "degraded", "is_read_only": True},
            "Degraded",
            "PostgreSQL accepts no writes",
        ),
        ({"status": "degraded", "database": "degraded"}, "Degraded", "accepts no further connection"),
        (
            {"status": "degraded", "redis": "unhealthy", "redis_reason": "NOPERM no permission"},
            "Degraded",
            "Redis cannot be used",
        ),
        (
            {"status": "degraded", "redis": "degraded", "redis_reason": "near cache off"},
            "Degraded",
            "Redis is used with limits",
        ),
        ({"status": "degraded", "migrations_pending": 2}, "Degraded", "2 migrations are not applied"),
        (
            {"status": "degraded", "pool": PoolUse(2, 2, 0, 2, 1, is_exhausted=True)},
            "Degraded",
            "All database connections of this dashboard are in use",
        ),
    ],
)
def test_every_reason_of_a_status_is_named(changes: dict[str, Any], status: str, text: str) -> None:
    """For each problem that the health check can find, the line shows the status and the problem."""
    line = write_line(IncidentLog(), build_health(**changes))
    assert f"badge[{status}] since" in line
    assert text in line.replace("\\", "")


def test_the_worst_of_several_problems_is_named() -> None:
    """The line names the worst problem, the number of other problems, and the begin of the oldest one."""
    log = IncidentLog()
    write_line(log, build_health(**REDIS_DOWN))
    both = build_health(**{**REDIS_DOWN, "status": "unhealthy", "database": "unhealthy"})
    line = write_line(log, both, seconds=60)
    assert "Unhealthy] since 03:12:05 UTC: PostgreSQL does not answer, and 1 more" in line


def test_a_firing_alert_is_a_problem() -> None:
    """A firing alert is a problem even if the health check finds none; a pending alert is no problem."""
    log = IncidentLog()
    late = Alert("EchoTaskLate", "warning", "pending", "simulator is late by two intervals", NOW)
    assert "All healthy" in write_line(log, HEALTHY, alerts=[late])
    firing = msgspec.structs.replace(late, state="firing")
    line = write_line(log, HEALTHY, alerts=[firing])
    assert line.startswith(":orange-badge[Alert] since 03:12:05 UTC: simulator is late by two intervals")


def test_the_alert_of_an_ended_problem_is_ignored_for_a_while() -> None:
    """An alert of an ended problem is ignored for SETTLING_SECONDS, because Prometheus clears it later."""
    log, alert = IncidentLog(), Alert("EchoRedisDown", "warning", "firing", "Redis does not answer", NOW)
    write_line(log, build_health(**REDIS_DOWN), alerts=[alert])
    assert "All healthy" in write_line(log, HEALTHY, alerts=[alert], seconds=1)
    assert "Alert" in write_line(log, HEALTHY, alerts=[alert], seconds=SETTLING_SECONDS)


def test_an_outage_that_ends_in_steps_is_one_incident() -> None:
    """If Redis works with limits for a second after an outage, the log still has only one incident."""
    log = IncidentLog()
    write_line(log, build_health(**REDIS_DOWN))
    limited = {"status": "degraded", "redis": "degraded", "redis_reason": "this process: not yet"}
    assert "with limits" in write_line(log, build_health(**limited), seconds=13)
    assert "Redis down for 14 s" in write_line(log, HEALTHY, seconds=14)


def test_incidents_are_bounded() -> None:
    """After 100 incidents the log has the newest MAX_INCIDENTS of them, the newest first."""
    log = IncidentLog()
    problem = Problem("EchoRedisDown", "Redis does not answer", "Redis down")
    for second in range(200):
        log.update([problem] if second % 2 else [], clock=second, moment=NOW + timedelta(seconds=second))
    log.update([], clock=200, moment=NOW)
    incidents = log.list_incidents()
    assert len(incidents) == MAX_INCIDENTS
    assert incidents[0].began_at == NOW + timedelta(seconds=199)


def test_a_stopped_sampler_is_not_shown_as_healthy() -> None:
    """If the latest sample is too old, the line shows `Health unknown` and the time of that sample."""
    line = write_line(IncidentLog(), HEALTHY, is_current=False)
    assert line == ":gray-badge[Health unknown] no answer since 03:12 UTC"


def test_an_incident_of_an_earlier_day_has_its_date() -> None:
    """An incident that began on an earlier day is shown with the day, not only the time."""
    log = IncidentLog()
    write_line(log, build_health(**REDIS_DOWN))
    assert write_line(log, HEALTHY, seconds=86_400).endswith("for 1 d (Connection refused), 1 Mar 03:12 UTC")
