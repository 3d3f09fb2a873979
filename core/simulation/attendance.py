"""Which simulated players take part in a session.

Owns the model: players join over time, and whether one returns depends on habit, on the
results of recent sessions and on completed quests. Everything follows from sessions that
are over and from a hash of the player and the day, so that the replay and a simulator that
starts again in the middle of a session choose the same players. Reads and writes nothing.
"""

from collections import deque
from datetime import date
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.simulation.amounts import Integers
from core.simulation.identifiers import Hashes, mix

WINDOW: Final = 10
"""Sessions that a decision looks back on: two trading weeks."""

FOUNDERS: Final = 0.3
"""Share of the players who are there from the first session; the others join over time."""

_EAGERNESS: Final = (-0.6, 2.4)
"""Log-odds of the least and the most eager player to return, everything else being equal."""

_HABIT: Final = 2.2
"""Log-odds between a player of every recent session and a player of none."""

_FORTUNE: Final = 0.45
"""Log-odds for each percent by which a player's mean return beat that of all players."""

_FORTUNE_LIMIT: Final = 3.0
_QUEST: Final = 0.4
"""Log-odds for each quest completed within the window, for at most two."""

_QUEST_LIMIT: Final = 2
_GAP: Final = -0.3
"""Log-odds for each session missed in a row: a player who stays away tends to stay away."""

_LAPSED: Final = -3.0
"""Further log-odds of a player who missed the whole window; a few of them do come back."""

_ATTEND, _JOIN, _FOUND = (np.uint64(salt) for salt in (0xA77E4D, 0x701401, 0xF0D4DE))
_UNIT: Final = 1.0 / (1 << 53)


class Recent(NamedTuple):
    """The last sessions, oldest first, at most `WINDOW`; one row per session, one column per player.

    `played` says who took part, `joined` who was in the game at all; `returns` are percent of
    the starting cash in hundredths and `quests` completed quests so far, both meaningful only
    where `played`.
    """

    joined: NDArray[np.bool_]
    played: NDArray[np.bool_]
    returns: Integers
    quests: Integers


class RecentSessions:
    """Collects the last sessions of a fixed list of players."""

    def __init__(self, players: int) -> None:
        self._players = players
        self._rows: deque[tuple[NDArray[np.bool_], NDArray[np.bool_], Integers, Integers]] = deque(
            maxlen=WINDOW
        )

    def add(
        self, joined: NDArray[np.bool_], players: NDArray[np.intp], returns: Integers, quests: Integers
    ) -> None:
        """Add a session; `returns` and `quests` have one element for each of its `players`."""
        played = np.zeros(self._players, np.bool_)
        played[players] = True
        rows = np.zeros((2, self._players), np.int64)
        rows[0, players], rows[1, players] = returns, quests
        self._rows.append((joined, played, rows[0], rows[1]))

    def recent(self) -> Recent:
        """Return the sessions added so far that are within the window."""
        shape = (len(self._rows), self._players)
        joined, played, returns, quests = (
            np.array([row[column] for row in self._rows]).reshape(shape) for column in range(4)
        )
        return Recent(joined.astype(np.bool_), played.astype(np.bool_), returns, quests)


def choose_join_sessions(keys: Hashes, sessions: int) -> Integers:
    """Return in which of the sessions, from 0, each player joins."""
    is_founder = _fraction(keys, _FOUND) < FOUNDERS
    later = (_fraction(keys, _JOIN) * sessions).astype(np.int64)
    return np.where(is_founder, 0, later)


def choose_attending(keys: Hashes, joined: NDArray[np.bool_], recent: Recent, day: date) -> NDArray[np.intp]:
    """Return which players take part in the session of `day`, in order.

    A player who has `joined` and was in no session before takes part: joining is playing.
    """
    chance = _chances(keys, recent)
    is_new = joined & ~recent.joined.any(axis=0)
    draws = _fraction(keys ^ mix(np.array([day.toordinal()], np.uint64)), _ATTEND)
    return np.flatnonzero(joined & (is_new | (draws < chance)))


def draw_fraction(day: date, salt: int) -> float:
    """Return a number from 0 up to 1 that follows from a day alone."""
    return float(_fraction(np.array([day.toordinal()], np.uint64), np.uint64(salt))[0])


def _chances(keys: Hashes, recent: Recent) -> NDArray[np.float64]:
    """Return for each player how likely it is that they take part in the next session."""
    played, joined = recent.played, recent.joined
    count = np.maximum(played.sum(axis=0), 1)
    # sessions before a player joined count as played: newcomers are curious
    habit = np.where(joined, played, True).mean(axis=0) if len(played) else np.ones(len(keys))
    lead = np.where(played, recent.returns - _mean_of_players(recent), 0).sum(axis=0) / count / 100
    least, most = _EAGERNESS
    odds = (
        least
        + (most - least) * _fraction(mix(keys), _ATTEND)
        + _HABIT * (habit - 0.5)
        + _FORTUNE * np.clip(lead, -_FORTUNE_LIMIT, _FORTUNE_LIMIT)
        + _QUEST * np.minimum(_count_quests(recent), _QUEST_LIMIT)
        + _GAP * _count_missed(played)
        + np.where(len(played) == WINDOW, _LAPSED * ~played.any(axis=0), 0.0)
    )
    chances: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
    return chances


def _mean_of_players(recent: Recent) -> NDArray[np.float64]:
    """Return the mean return of each session, as a column."""
    players = np.maximum(recent.played.sum(axis=1), 1)
    total = np.where(recent.played, recent.returns, 0).sum(axis=1)
    mean: NDArray[np.float64] = total / players
    return mean[:, np.newaxis]


def _count_quests(recent: Recent) -> Integers:
    """Return how many quests were completed between a player's first and last session of the window."""
    if not len(recent.played):
        return np.zeros(recent.played.shape[1], np.int64)
    players = np.arange(recent.played.shape[1])
    first = recent.played.argmax(axis=0)
    last = len(recent.played) - 1 - recent.played[::-1].argmax(axis=0)
    difference = recent.quests[last, players] - recent.quests[first, players]
    return np.where(recent.played.any(axis=0), difference, 0)


def _count_missed(played: NDArray[np.bool_]) -> Integers:
    """Return how many sessions each player has missed since the last one played."""
    if not len(played):
        return np.zeros(played.shape[1], np.int64)
    since = played[::-1].argmax(axis=0)
    return np.where(played.any(axis=0), since, len(played))


def _fraction(keys: Hashes, salt: np.uint64) -> NDArray[np.float64]:
    return (mix(keys ^ mix(np.array([salt], np.uint64))) >> np.uint64(11)).astype(np.float64) * _UNIT
