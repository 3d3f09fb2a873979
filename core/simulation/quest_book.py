"""The quests of a replay.

Owns who works on what and how far each is: a ladder of milestones that never
expires, and one quest a week. Returns finished rows; never writes them.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.records import Quest
from core.simulation.amounts import Integers, to_money
from core.simulation.identifiers import Kind, hash_ids, make_ids
from core.simulation.quest_rules import (
    BEAT,
    GAIN,
    MILESTONES,
    WEEKLY,
    WINS,
    build_quest,
    milestone,
    take_turns,
    week_of,
)
from core.simulation.sessions import SessionResult
from core.simulation.trading_day import close_of, open_of

_RUNGS: Final = np.array([*MILESTONES, np.iinfo(np.int64).max])
_TARGET_CENTS: Final = np.array([int(rule.target * 100) for rule in WEEKLY])
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_ONE: Final = 100  # progress is in hundredths, as the database keeps it


class QuestBook:
    """Follows the players of a replay from session to session.

    Milestones are for everyone from their first session on; the quest of a week is for those
    who play in it and whose turn it is, so that players with and without one can be compared.
    """

    def __init__(self, user_ids: tuple[UUID, ...], *, seed: int) -> None:
        count = len(user_ids)
        self.completed: Integers = np.zeros(count, np.int64)
        """How many quests each player has completed so far."""
        self._user_ids = user_ids
        self._keys = hash_ids(user_ids)
        self._seed = seed
        self._wins: Integers = np.zeros(count, np.int64)
        self._rung: Integers = np.zeros(count, np.int64)
        self._has_begun: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self._rung_since = [_NEVER] * count
        self._monday: date | None = None
        # the day on which each player got the quest of the week, 0 for none
        self._week_since: Integers = np.zeros(count, np.int64)
        self._rule: Integers = np.zeros(count, np.int64)
        self._progress: Integers = np.zeros(count, np.int64)

    def play(self, day: date, players: NDArray[np.intp], result: SessionResult) -> list[Quest]:
        """Count a session of these players; return the quests that are over with it or before it."""
        over = self._begin_week(day)
        self._give(day, players)
        won = np.zeros(len(self._user_ids), np.bool_)
        won[players] = result.change_cents > 0
        before = self._reached()
        self._advance(players, result, won)
        self.completed += self._reached() & ~before
        self._wins += won
        return [*over, *self._climb(day, won)]

    def finish(self, now: datetime) -> list[Quest]:
        """Return what is open after the last session: the week's quests and the milestones."""
        rungs = np.flatnonzero(self._has_begun & (self._rung < len(MILESTONES)))
        return [*self._end_week(now), *self._milestones(rungs, "ACTIVE")]

    def _advance(self, players: NDArray[np.intp], result: SessionResult, won: NDArray[np.bool_]) -> None:
        change = np.zeros_like(self._progress)
        change[players] = result.change_cents
        ahead = np.zeros_like(won)
        ahead[players] = result.value_cents * len(players) > result.value_cents.sum()
        progress = np.select(
            [self._is(WINS), self._is(GAIN), self._is(BEAT)],
            [
                self._progress + _ONE * won,
                np.maximum(self._progress, change),
                self._progress + _ONE * ahead,
            ],
        )
        self._progress = np.where(self._week_since > 0, progress, 0)

    def _is(self, kind: str) -> NDArray[np.bool_]:
        return np.array([rule.type == kind for rule in WEEKLY])[self._rule]

    def _reached(self) -> NDArray[np.bool_]:
        reached: NDArray[np.bool_] = self._progress >= _TARGET_CENTS[self._rule]
        return reached

    def _begin_week(self, day: date) -> list[Quest]:
        monday = day - timedelta(days=day.weekday())
        if monday == self._monday:
            return []
        over = self._end_week(open_of(day))
        self._monday, self._week_since = monday, np.zeros_like(self._week_since)
        self._rule = (week_of(day) + np.arange(len(self._user_ids))) % len(WEEKLY)
        self._progress = np.zeros_like(self._progress)
        return over

    def _give(self, day: date, players: NDArray[np.intp]) -> None:
        """Give quests to those who play for the first time: in all, and in this week."""
        for player in players[~self._has_begun[players]].tolist():
            self._rung_since[player] = open_of(day)
        self._has_begun[players] = True
        has_turn = take_turns(self._keys[players], week_of(day))
        new = players[has_turn & (self._week_since[players] == 0)]
        self._week_since[new] = day.toordinal()

    def _end_week(self, now: datetime) -> list[Quest]:
        if self._monday is None:
            return []
        expiry = datetime.combine(self._monday + timedelta(days=7), time(0), UTC)
        return [
            quest
            for day in np.unique(self._week_since[self._week_since > 0]).tolist()
            for quest in self._end_quests(open_of(date.fromordinal(day)), day, expiry, now)
        ]

    def _end_quests(self, since: datetime, day: int, expiry: datetime, now: datetime) -> Iterator[Quest]:
        """Yield the quests of the week that were given on one day."""
        players = np.flatnonzero(self._week_since == day)
        rules = self._rule[players]
        target = _TARGET_CENTS[rules]
        progress = self._progress[players]
        missed = "EXPIRED" if expiry <= now else "ACTIVE"
        rows = zip(
            make_ids(Kind.WEEKLY, seed=self._seed, when=since, numbers=players),
            players.tolist(),
            rules.tolist(),
            np.clip(progress, 0, target).tolist(),
            (progress >= target).tolist(),
            strict=True,
        )
        for quest_id, player, rule, reached_cents, is_reached in rows:
            yield build_quest(
                quest_id,
                self._user_ids[player],
                WEEKLY[rule],
                progress=to_money(reached_cents),
                status="COMPLETED" if is_reached else missed,
                created_at=since,
                expires_at=expiry,
            )

    def _climb(self, day: date, won: NDArray[np.bool_]) -> list[Quest]:
        reached = np.flatnonzero(won & (self._wins >= _RUNGS[self._rung]))
        quests = list(self._milestones(reached, "COMPLETED"))
        self.completed[reached] += 1
        self._rung[reached] += 1
        for player in reached.tolist():
            self._rung_since[player] = close_of(day)
        return quests

    def _milestones(self, players: NDArray[np.intp], status: str) -> Iterator[Quest]:
        for player in players.tolist():
            rung, since = int(self._rung[player]), self._rung_since[player]
            numbers = np.array([player * len(_RUNGS) + rung])
            yield build_quest(
                make_ids(Kind.MILESTONE, seed=self._seed, when=since, numbers=numbers)[0],
                self._user_ids[player],
                milestone(MILESTONES[rung]),
                progress=Decimal(int(self._wins[player])),
                status=status,
                created_at=since,
                expires_at=None,
            )
