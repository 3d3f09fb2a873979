"""Removes every row that a self-test has made, wherever it stopped.

Owns the name that all these rows have. Rows are found by that name and not by the answers of calls: a call
that was interrupted may have committed and returned nothing.
"""

import re
import secrets
from collections.abc import Callable
from datetime import date, datetime, timedelta
from time import sleep

from core.errors import DatabaseError, DatabaseUnavailable, EchoMarketsError, PoolTimeout, UserNotFound
from core.queries import leaderboards
from core.service import EnhancedDatabaseService

ACTOR = "self-test"
EVENT_TYPE = "SELF_TEST"
PREFIX = "self-test-"
# No game is played on that day, so no leaderboard that people look at is touched.
SESSION = date(1970, 1, 1)
MOST = 1_000
# A self-test takes seconds; one that was killed leaves its player behind for the next to find.
ABANDONED_AFTER = timedelta(hours=1)
# While another process writes entries, counters cannot be removed, so this is tried several times.
ATTEMPTS = 50
ATTEMPT_SECONDS = 0.1


def new_name() -> str:
    """Return a name that no other self-test has.

    It is that of the player, the leaderboard and the market events, and the target of audit events.
    """
    return f"{PREFIX}{secrets.token_hex(4)}"


def symbol_of(name: str) -> str:
    """Return the symbol of the self-test with this name."""
    return name.upper()


def find_abandoned(service: EnhancedDatabaseService, now: datetime) -> list[str]:
    """Return the names of self-tests that were killed."""
    return [
        user.username
        for user in service.search_users(PREFIX, limit=MOST)
        if re.fullmatch(rf"{PREFIX}[0-9a-f]{{8}}", user.username) and user.created_at < now - ABANDONED_AFTER
    ]


def remove(service: EnhancedDatabaseService, name: str) -> list[str]:
    """Remove every row of a self-test; return what could not be removed, and why.

    Its events stay in the audit log, which nobody can remove an event from.
    """
    problems: list[str] = []
    steps: dict[str, Callable[[], object]] = {
        "ticks": lambda: service.delete_market_ticks(symbol_of(name)),
        "market events": lambda: _remove_events(service, name),
        "leaderboard": lambda: _remove_leaderboard(service, name),
        # last: by it a later self-test finds what this one could not remove
        "player": lambda: _remove_player(service, name),
    }
    for what, step in steps.items():
        try:
            step()
        except (DatabaseUnavailable, PoolTimeout) as error:
            return [*problems, f"{what} and whatever else there is: {error}"]
        except EchoMarketsError as error:
            problems.append(f"{what}: {error}")
    return problems


def _remove_events(service: EnhancedDatabaseService, name: str) -> None:
    for event in service.list_market_events(MOST, type=EVENT_TYPE):
        if event.title == name:
            service.delete_market_event(event.id)


def _remove_leaderboard(service: EnhancedDatabaseService, name: str) -> None:
    """Remove the entries with their counters, which would stay when the entries go with the player."""
    for _ in range(ATTEMPTS):
        with service._write_as("self_test") as (database, _):  # noqa: SLF001  # no public call does this
            if leaderboards.delete_leaderboard(database, SESSION, name):
                return
        sleep(ATTEMPT_SECONDS)
    raise DatabaseError(f"others write leaderboards all the time; try again later: {name}")


def _remove_player(service: EnhancedDatabaseService, name: str) -> None:
    try:
        user = service.get_user_by_username(name)
    except UserNotFound:
        return
    service.delete_user(user.id)
