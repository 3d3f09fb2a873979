"""Removes every row that a self-test has created, whether it finished or was interrupted.

Owns the name by which all these rows are found. The answers of calls are not used to find rows, because a
call that was interrupted may have committed without returning an answer.
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
# No game is played on this day, so no leaderboard of real players is changed.
SESSION = date(1970, 1, 1)
MOST = 1_000
# A self-test takes seconds, so a self-test player that is older than this comes from a run that was killed.
ABANDONED_AFTER = timedelta(hours=1)
# While another process writes entries, the counters of a leaderboard cannot be removed: try this many times.
ATTEMPTS = 50
ATTEMPT_SECONDS = 0.1


def new_name() -> str:
    """Return a name that no other self-test has.

    Player, leaderboard and market events have this name, and audit events have it as their target.
    """
    return f"{PREFIX}{secrets.token_hex(4)}"


def symbol_of(name: str) -> str:
    """Return the stock symbol of the self-test with this name."""
    return name.upper()


def find_abandoned(service: EnhancedDatabaseService, now: datetime) -> list[str]:
    """Return the names of self-tests that were killed."""
    return [
        user.username
        for user in service.search_users(PREFIX, limit=MOST)
        if re.fullmatch(rf"{PREFIX}[0-9a-f]{{8}}", user.username) and user.created_at < now - ABANDONED_AFTER
    ]


def remove(service: EnhancedDatabaseService, name: str) -> list[str]:
    """Remove every row of a self-test; return a line for each kind of rows that could not be removed.

    The events of the self-test stay in the audit log, because events cannot be removed from it.
    """
    problems: list[str] = []
    steps: dict[str, Callable[[], object]] = {
        "ticks": lambda: service.delete_market_ticks(symbol_of(name)),
        "market events": lambda: _remove_events(service, name),
        "leaderboard": lambda: _remove_leaderboard(service, name),
        # last, because a later self-test finds the rows that this one could not remove by the player's name
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
    """Remove the entries and their counters: deleting the player would delete only the entries."""
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
