"""A problem is something that is broken now. An incident is a problem with its start and its end.

Sends no requests itself. The dashboard's own health check finds problems of PostgreSQL and Redis within
seconds; alerts add problems that only a scrape of all processes shows.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from core.records import Health
from dashboard.monitoring.alerts import Alert

MAX_INCIDENTS = 50
SETTLING_SECONDS = 60
"""How long an alert can last after its problem has ended: until the next evaluation of its rule."""


class Problem(msgspec.Struct, frozen=True):
    """Something that is broken now. `rule` is its alert rule, `reason` the error message of the server."""

    rule: str
    text: str
    name: str
    reason: str = ""
    is_down: bool = False
    """Whether the server is completely down: this is worse than any other problem of the same alert rule."""


class Incident(msgspec.Struct, frozen=True):
    """A problem from its start to its end. `ended_at` and `seconds` are None while it lasts."""

    problem: Problem
    began_at: datetime
    ended_at: datetime | None = None
    seconds: float | None = None


class IncidentLog:
    """The open incidents, and the latest ones that have ended. Not thread safe."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[float, Incident]] = {}
        self._ended: deque[Incident] = deque(maxlen=MAX_INCIDENTS)
        self._checked_at: dict[str, float] = {}

    def update(self, problems: Iterable[Problem], *, clock: float, moment: datetime) -> None:
        """Open an incident for each new problem, and end the incidents whose problem is gone.

        `clock` is a monotonic time in seconds. `moment` is the date and time.
        """
        before, self._open = self._open, {}
        for problem in problems:
            began, incident = before.pop(problem.rule, (clock, Incident(problem, moment)))
            # store the latest problem of the incident, but do not replace "down" by a lesser problem
            if problem.is_down or not incident.problem.is_down:
                incident = Incident(problem, incident.began_at)
            self._open[problem.rule] = began, incident
        for began, incident in before.values():
            self._ended.append(Incident(incident.problem, incident.began_at, moment, clock - began))

    def add_alerts(
        self, problems: Iterable[Problem], alerts: Iterable[Alert], *, clock: float
    ) -> Iterator[Problem]:
        """Yield `problems`, then one problem for each firing alert of another rule.

        `problems` are those of a health check. An alert is left out if a health check has found a problem of
        its rule in the last `SETTLING_SECONDS`: that problem has ended, and the alert will end too.
        """
        for problem in problems:
            self._checked_at[problem.rule] = clock
            yield problem
        reported_rules = {
            rule for rule, checked_at in self._checked_at.items() if clock - checked_at < SETTLING_SECONDS
        }
        for alert in alerts:
            if alert.state == "firing" and alert.rule not in reported_rules:
                reported_rules.add(alert.rule)
                yield Problem(alert.rule, alert.summary, alert.summary, alert.reason)

    def list_incidents(self) -> tuple[Incident, ...]:
        """Return the open incidents, then the ended ones, newest first."""
        return (*(incident for _, incident in self._open.values()), *reversed(self._ended))


def find_problems(health: Health) -> Iterator[Problem]:
    """Yield the problems in a result of the health check, worst first."""
    reason = health.database_reason or ""
    if health.database == "unhealthy":
        yield Problem(
            "EchoDatabaseDown", "PostgreSQL does not answer", "PostgreSQL down", reason, is_down=True
        )
    elif health.is_read_only:
        yield Problem("EchoDatabaseDown", "PostgreSQL accepts no writes", "PostgreSQL read-only", reason)
    elif health.database == "degraded":
        text = "PostgreSQL accepts no further connection"
        yield Problem("EchoDatabaseDown", text, "PostgreSQL without free connections", reason)
    reason = health.redis_reason or ""
    if health.redis == "unhealthy":
        # if Redis refuses a command, its error begins with a code in capitals, such as NOPERM
        refuses = len(reason.split(" ")[0]) > 3 and reason.split(" ")[0].isupper()
        text = "Redis cannot be used" if refuses else "Redis does not answer"
        yield Problem("EchoRedisDown", text, "Redis down", reason, is_down=True)
    elif health.redis == "degraded":
        yield Problem("EchoRedisDown", "Redis is used with limits", "Redis limited", reason)
    if health.migrations_pending:
        text = f"{health.migrations_pending} migrations are not applied"
        yield Problem("EchoMigrationsPending", text, "Migrations pending")
    if health.pool.is_exhausted:
        text = "All database connections of this dashboard are in use"
        yield Problem("EchoPoolNearlyExhausted", text, "Connections used up")
