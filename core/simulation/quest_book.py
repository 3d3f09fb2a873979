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
from core.simulation.identifiers import Kind, make_ids
from core.simulation.quest_rules import (
    BEAT,
    GAIN,
    MILESTONES,
    REWARD_TYPE,
    WEEKLY,
    WINS,
    QuestRule,
    milestone,
)
from core.simulation.sessions import SessionResult
from core.simulation.trading_day import close_of, open_of

_RUNGS: Final = np.array([*MILESTONES, np.iinfo(np.int64).max])
_TARGET_CENTS: Final = np.array([int(rule.target * 100) for rule in WEEKLY])
_ONE: Final = 100  # progress is in hundredths, as the database keeps it


class QuestBook:
    """Follows the players of a replay from session to session."""

    def __init__(self, user_ids: tuple[UUID, ...], *, seed: int, first_day: date) -> None:
        count = len(user_ids)
        self.completed: Integers = np.zeros(count, np.int64)
        """How many quests each player has completed so far."""
        self._user_ids = user_ids
        self._seed = seed
        self._wins: Integers = np.zeros(count, np.int64)
        self._rung: Integers = np.zeros(count, np.int64)
        self._rung_since = [open_of(first_day)] * count
        self._monday: date | None = None
        self._week_since = open_of(first_day)
        self._rule: Integers = np.zeros(count, np.int64)
        self._progress: Integers = np.zeros(count, np.int64)

    def play(self, day: date, result: SessionResult) -> list[Quest]:
        """Count a session, and return the quests that are over with it or before it."""
        over = self._begin_week(day)
        change = result.change_cents
        won = change > 0
        ahead = result.value_cents * len(change) > result.value_cents.sum()
        before = self._reached()
        self._progress = np.select(
            [self._is(WINS), self._is(GAIN), self._is(BEAT)],
            [
                self._progress + _ONE * won,
                np.maximum(self._progress, change),
                self._progress + _ONE * ahead,
            ],
        )
        self.completed += self._reached() & ~before
        self._wins += won
        return [*over, *self._climb(day, won)]

    def finish(self, now: datetime) -> list[Quest]:
        """Return what is open after the last session: the week's quests and the milestones."""
        rungs = np.flatnonzero(self._rung < len(MILESTONES))
        return [*self._end_week(now), *self._milestones(rungs, "ACTIVE")]

    def _is(self, kind: str) -> NDArray[np.bool_]:
        return np.array([rule.type == kind for rule in WEEKLY])[self._rule]

    def _reached(self) -> NDArray[np.bool_]:
        reached: NDArray[np.bool_] = self._progress >= _TARGET_CENTS[self._rule]
        return reached

    def _begin_week(self, day: date) -> list[Quest]:
        monday = day - timedelta(days=day.weekday())
        if monday == self._monday:
            return []
        over = self._end_week(open_of(day)) if self._monday else []
        self._monday, self._week_since = monday, open_of(day)
        week = monday.toordinal() // 7
        self._rule = (week + np.arange(len(self._user_ids))) % len(WEEKLY)
        self._progress = np.zeros_like(self._progress)
        return over

    def _end_week(self, now: datetime) -> list[Quest]:
        if self._monday is None:
            return []
        expiry = datetime.combine(self._monday + timedelta(days=7), time(0), UTC)
        missed = "EXPIRED" if expiry <= now else "ACTIVE"
        players = np.arange(len(self._user_ids))
        ids = make_ids(Kind.WEEKLY, seed=self._seed, when=self._week_since, numbers=players)
        target = _TARGET_CENTS[self._rule]
        rows = zip(
            ids,
            self._user_ids,
            self._rule.tolist(),
            np.clip(self._progress, 0, target).tolist(),
            self._reached().tolist(),
            strict=True,
        )
        return [
            _quest(
                quest_id,
                user_id,
                WEEKLY[rule],
                progress=to_money(progress),
                status="COMPLETED" if reached else missed,
                created_at=self._week_since,
                expires_at=expiry,
            )
            for quest_id, user_id, rule, progress, reached in rows
        ]

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
            yield _quest(
                make_ids(Kind.MILESTONE, seed=self._seed, when=since, numbers=numbers)[0],
                self._user_ids[player],
                milestone(MILESTONES[rung]),
                progress=Decimal(int(self._wins[player])),
                status=status,
                created_at=since,
                expires_at=None,
            )


def _quest(
    quest_id: UUID,
    user_id: UUID,
    rule: QuestRule,
    *,
    progress: Decimal,
    status: str,
    created_at: datetime,
    expires_at: datetime | None,
) -> Quest:
    return Quest(
        id=quest_id,
        user_id=user_id,
        type=rule.type,
        title=rule.title,
        description=rule.description,
        target_value=rule.target,
        current_progress=progress,
        status=status,
        reward_type=REWARD_TYPE,
        reward_value=rule.reward,
        created_at=created_at,
        expires_at=expires_at,
    )
