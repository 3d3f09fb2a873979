"""Removes all rows of a self-test, except its audit events, also after an interruption.

Owns the name of a self-test, by which all its rows are found. The ids in the answers of calls are not used: a
call that was interrupted may have committed without an answer.
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
MAX_LISTED = 1_000
# A self-test takes seconds. If its player is older than this, the self-test was killed.
ABANDONED_AFTER = timedelta(hours=1)
# The number of attempts to remove the counters of a leaderboard, and the pause between two attempts. An
# attempt fails if another process writes entries.
ATTEMPTS = 50
ATTEMPT_SECONDS = 0.1


def new_name() -> str:
    """Return a random name for a self-test.

    Its player, its leaderboard and its market events get this name. Its audit events have it as their target.
    """
    return f"{PREFIX}{secrets.token_hex(4)}"


def build_symbol(name: str) -> str:
    """Return the stock symbol of the self-test with this name."""
    return name.upper()


def find_abandoned(service: EnhancedDatabaseService, now: datetime) -> list[str]:
    """Return the names of self-tests that were killed and have left their player."""
    return [
        user.username
        for user in service.search_users(PREFIX, limit=MAX_LISTED)
        if re.fullmatch(rf"{PREFIX}[0-9a-f]{{8}}", user.username) and user.created_at < now - ABANDONED_AFTER
    ]


def remove(service: EnhancedDatabaseService, name: str) -> list[str]:
    """Remove all rows of a self-test. Return an error line for each kind of row that could not be removed.

    The audit events of the self-test stay: nothing can be removed from the audit log.
    """
    problems: list[str] = []
    steps: dict[str, Callable[[], object]] = {
        "ticks": lambda: service.delete_market_ticks(build_symbol(name)),
        "market events": lambda: _remove_events(service, name),
        "leaderboard": lambda: _remove_leaderboard(service, name),
        # The player is removed last: if other rows cannot be removed now, a later self-test finds them by the
        # name of the player.
        "player": lambda: _remove_player(service, name),
    }
    for kind, step in steps.items():
        try:
            step()
        except (DatabaseUnavailable, PoolTimeout) as error:
            return [*problems, f"{kind} and the rest: {error}"]
        except EchoMarketsError as error:
            problems.append(f"{kind}: {error}")
    return problems


def _remove_events(service: EnhancedDatabaseService, name: str) -> None:
    for event in service.list_market_events(MAX_LISTED, type=EVENT_TYPE):
        if event.title == name:
            service.delete_market_event(event.id)


def _remove_leaderboard(service: EnhancedDatabaseService, name: str) -> None:
    """Remove the leaderboard, which has counters too: deleting the player would delete only the entries."""
    for _ in range(ATTEMPTS):
        with service._write_as("self_test") as (database, _):  # noqa: SLF001  # no public call does this
            if leaderboards.delete_leaderboard(database, SESSION, name):
                return
        sleep(ATTEMPT_SECONDS)
    raise DatabaseError(f"other processes write entries all the time; try again later: {name}")


def _remove_player(service: EnhancedDatabaseService, name: str) -> None:
    try:
        user = service.get_user_by_username(name)
    except UserNotFound:
        return
    service.delete_user(user.id)
