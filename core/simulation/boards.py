"""The leaderboards of a session.

Owns the categories and how a score follows from a session. Never writes an entry.
"""

from collections.abc import Iterator
from datetime import date
from itertools import repeat
from typing import Final

import numpy as np
from frozendict import frozendict

from core.records import LeaderboardEntry
from core.simulation.amounts import Integers, to_moneys
from core.simulation.identifiers import Kind, make_ids
from core.simulation.roster import Roster
from core.simulation.sessions import SessionResult, percent_hundredths, rank_scores
from core.simulation.trading_day import close_of

DAILY_RETURNS: Final = "daily_returns"
TOTAL_VALUE: Final = "total_value"
QUESTS_COMPLETED: Final = "quests_completed"

_KINDS: Final = {
    DAILY_RETURNS: Kind.DAILY_RETURNS,
    TOTAL_VALUE: Kind.TOTAL_VALUE,
    QUESTS_COMPLETED: Kind.QUESTS_COMPLETED,
}


def build_entries(
    roster: Roster, day: date, result: SessionResult, completed: Integers, *, seed: int
) -> Iterator[LeaderboardEntry]:
    """Yield the entries of all boards of a session; `completed` are quests so far."""
    everyone = np.arange(len(roster.user_ids))
    returns = percent_hundredths(result.change_cents)
    yield from _board(roster, day, DAILY_RETURNS, everyone, returns, seed=seed)
    yield from _board(roster, day, TOTAL_VALUE, everyone, result.value_cents, seed=seed)
    # a player without a completed quest is not on that board
    players = np.flatnonzero(completed)
    yield from _board(roster, day, QUESTS_COMPLETED, players, completed[players] * 100, seed=seed)


def _board(
    roster: Roster, day: date, category: str, players: Integers, hundredths: Integers, *, seed: int
) -> Iterator[LeaderboardEntry]:
    places = players.tolist()
    closed = close_of(day)
    # in the order of the record's fields: keyword arguments double the cost of an entry
    return map(
        LeaderboardEntry,
        make_ids(_KINDS[category], seed=seed, when=closed, numbers=players),
        [roster.user_ids[place] for place in places],
        [roster.usernames[place] for place in places],
        repeat(day),
        repeat(category),
        to_moneys(hundredths),
        rank_scores(hundredths).tolist(),
        repeat(frozendict()),  # metadata
        repeat(closed),
    )
