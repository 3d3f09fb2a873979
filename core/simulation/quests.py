"""The quests of the game: their targets, texts and rewards, and the quests of players in replayed sessions.

In replayed sessions, a player has one milestone at a time, which never expires, and at most one quest a week.
The quests of live sessions are in `live_quests`. Writes nothing.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from core.records import Quest
from core.simulation.amounts import Integers, to_money
from core.simulation.identifiers import Hashes, Kind, hash_ids, make_ids, mix
from core.simulation.trading import SessionResult
from core.simulation.trading_hours import close_of, midnight_of, open_of

WINS = "WINNING_SESSIONS"
GAIN = "BIG_GAIN"
BEAT = "BEAT_THE_AVERAGE"
MILESTONE = "MILESTONE"
GAIN_TODAY = "DAILY_GAIN"
LEAD_TODAY = "DAILY_LEAD"


class QuestRule(NamedTuple):
    """The definition of a quest that players can get; the reward is in coins."""

    type: str
    title: str
    description: str
    target: Decimal
    reward: Decimal


REWARD_TYPE: Final = "COINS"

WEEKLY: Final = (
    QuestRule(
        WINS,
        "Win 3 sessions this week",
        "Finish three sessions of the week with a gain.",
        Decimal(3),
        Decimal(50),
    ),
    QuestRule(
        GAIN,
        "Gain 200 in one session",
        "Finish a session of the week at least 200.00 above the starting cash.",
        Decimal(200),
        Decimal(75),
    ),
    QuestRule(
        BEAT,
        "Beat the average 3 times this week",
        "Finish three sessions of the week above the average player.",
        Decimal(3),
        Decimal(60),
    ),
)
"""Quests of the week in replayed sessions, in the order in which a player gets them."""

DAILY: Final = (
    QuestRule(
        GAIN_TODAY,
        "Gain 100 today",
        "Be 100.00 above the starting cash at any time today.",
        Decimal(100),
        Decimal(20),
    ),
    QuestRule(
        LEAD_TODAY,
        "Be 50 ahead of the average today",
        "Be 50.00 ahead of the average player at any time today.",
        Decimal(50),
        Decimal(25),
    ),
)
"""Quests of the day in the live market, in the order in which a player gets them."""

RECEIVER_PERCENT: Final = 70
"""The percentage of players who get the quest of a day or week. The other players are a control group."""

DAILY_TYPES: Final = frozenset(rule.type for rule in DAILY)

MILESTONES: Final = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
"""The targets of milestones, in won sessions. A player has one milestone at a time as an active quest."""


INSTRUCTIONS: Final = {
    **{rule.type: rule.description for rule in (*DAILY, *WEEKLY)},
    MILESTONE: (
        f"Finish {MILESTONES[0]} sessions with a gain; the next ones: {MILESTONES[1]}, {MILESTONES[2]} "
        "and so on."
    ),
}
"""For each type of quest, a sentence that says how a player completes it."""

ENDLESS_TYPES: Final = frozenset({MILESTONE})
"""Types of quests without a deadline. They end only when completed, so they have no completion rate."""


def milestone(wins: int) -> QuestRule:
    """Return the milestone with a target of `wins` won sessions in total."""
    return QuestRule(
        MILESTONE,
        f"Win {wins:,} sessions",
        f"Finish {wins:,} sessions with a gain, counted over all of them.",
        Decimal(wins),
        Decimal(10 * wins),
    )


def next_milestone(wins: int) -> QuestRule | None:
    """Return the first milestone with a target above `wins`, or None if no milestone has a higher target."""
    return next((milestone(target) for target in MILESTONES if target > wins), None)


def choose_daily(user_id: UUID, day: date) -> QuestRule:
    """Return the definition of a player's quest of the day."""
    return DAILY[(day.toordinal() + user_id.int) % len(DAILY)]


def week_of(day: date) -> int:
    """Return the number of the week of a day. Weeks begin on Monday; numbers have no gap between years."""
    return (day.toordinal() - 1) // 7


def choose_receivers(keys: Hashes, period: int) -> NDArray[np.bool_]:
    """Return a mask of the players who get a quest in a period; `period` is the number of a day or week."""
    draws = mix(keys ^ mix(np.array([period], np.uint64))) % np.uint64(100)
    is_receiver: NDArray[np.bool_] = draws < RECEIVER_PERCENT
    return is_receiver


def build_quest(
    quest_id: UUID,
    user_id: UUID,
    rule: QuestRule,
    *,
    progress: Decimal,
    status: str,
    created_at: datetime,
    expires_at: datetime | None,
    completed_at: datetime | None = None,
) -> Quest:
    """Return a player's quest with the texts, the target and the reward of `rule`."""
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
        completed_at=completed_at,
    )


_MILESTONE_TARGETS: Final = np.array([*MILESTONES, np.iinfo(np.int64).max])
_TARGET_CENTS: Final = np.array([int(rule.target * 100) for rule in WEEKLY])
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_ONE: Final = 100  # a progress of 1.00, in hundredths; the database stores two decimal places


class ReplayQuests:
    """The quests of all players of a replay, session by session.

    Every player has a milestone quest from their first session on. Each week has a quest, and
    `choose_receivers` selects the players who get it. The players who do not get it are a control group.
    """

    def __init__(self, user_ids: tuple[UUID, ...], *, seed: int) -> None:
        count = len(user_ids)
        self.completed: Integers = np.zeros(count, np.int64)
        """The number of quests that each player has completed so far."""
        self._user_ids = user_ids
        self._keys = hash_ids(user_ids)
        self._seed = seed
        self._wins: Integers = np.zeros(count, np.int64)
        self._milestone: Integers = np.zeros(count, np.int64)
        self._has_begun: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self._milestone_since = [_NEVER] * count
        self._monday: date | None = None
        # the ordinal of the day on which each player got the quest of the week; 0 for a player without one
        self._week_since: Integers = np.zeros(count, np.int64)
        self._rule: Integers = np.zeros(count, np.int64)
        self._progress: Integers = np.zeros(count, np.int64)
        # the ordinal of the day on which each player reached the target of the quest; 0 if not reached
        self._reached_on: Integers = np.zeros(count, np.int64)

    def play(self, day: date, players: NDArray[np.intp], result: SessionResult) -> list[Quest]:
        """Update the quests with the result of a session; return the quests that ended.

        These are the milestones completed in this session, and, if it is the first session of a week, the
        quests of the previous week. `players` has the numbers of the players who took part.
        """
        over = self._start_week(day)
        self._assign_quests(day, players)
        won = np.zeros(len(self._user_ids), np.bool_)
        won[players] = result.change_cents > 0
        before = self._reached()
        self._advance(players, result, won)
        reached = self._reached() & ~before
        self.completed += reached
        self._reached_on[reached] = day.toordinal()
        self._wins += won
        return [*over, *self._complete_milestones(day, won)]

    def finish(self, now: datetime) -> list[Quest]:
        """Return the quests that `play` has not returned: quests of the last week, and open milestones."""
        players = np.flatnonzero(self._has_begun & (self._milestone < len(MILESTONES)))
        return [*self._end_week(now), *self._milestones(players)]

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

    def _start_week(self, day: date) -> list[Quest]:
        monday = day - timedelta(days=day.weekday())
        if monday == self._monday:
            return []
        over = self._end_week(open_of(day))
        self._monday, self._week_since = monday, np.zeros_like(self._week_since)
        self._rule = (week_of(day) + np.arange(len(self._user_ids))) % len(WEEKLY)
        self._progress = np.zeros_like(self._progress)
        self._reached_on = np.zeros_like(self._reached_on)
        return over

    def _assign_quests(self, day: date, players: NDArray[np.intp]) -> None:
        """Give a milestone to new players, and the quest of the week to selected players.

        A player gets the quest of the week at their first session of the week.
        """
        for player in players[~self._has_begun[players]].tolist():
            self._milestone_since[player] = open_of(day)
        self._has_begun[players] = True
        is_receiver = choose_receivers(self._keys[players], week_of(day))
        new = players[is_receiver & (self._week_since[players] == 0)]
        self._week_since[new] = day.toordinal()

    def _end_week(self, now: datetime) -> list[Quest]:
        if self._monday is None:
            return []
        expiry = midnight_of(self._monday + timedelta(days=7))
        return [
            quest
            for day in np.unique(self._week_since[self._week_since > 0]).tolist()
            for quest in self._end_quests(open_of(date.fromordinal(day)), day, expiry, now)
        ]

    def _end_quests(self, since: datetime, day: int, expiry: datetime, now: datetime) -> Iterator[Quest]:
        """Yield the quests of the week that players got on one day.

        `day` is the ordinal of this day. `since` is the time at which the market opened on it.
        """
        players = np.flatnonzero(self._week_since == day)
        rules = self._rule[players]
        target = _TARGET_CENTS[rules]
        progress = self._progress[players]
        missed = "EXPIRED" if expiry <= now else "ACTIVE"
        rows = zip(
            make_ids(Kind.WEEKLY, seed=self._seed, when=since, keys=players),
            players.tolist(),
            rules.tolist(),
            np.clip(progress, 0, target).tolist(),
            self._reached_on[players].tolist(),
            strict=True,
        )
        for quest_id, player, rule, reached_cents, reached_on in rows:
            yield build_quest(
                quest_id,
                self._user_ids[player],
                WEEKLY[rule],
                progress=to_money(reached_cents),
                status="COMPLETED" if reached_on else missed,
                created_at=since,
                expires_at=expiry,
                completed_at=close_of(date.fromordinal(reached_on)) if reached_on else None,
            )

    def _complete_milestones(self, day: date, won: NDArray[np.bool_]) -> list[Quest]:
        reached = np.flatnonzero(won & (self._wins >= _MILESTONE_TARGETS[self._milestone]))
        quests = list(self._milestones(reached, completed_at=close_of(day)))
        self.completed[reached] += 1
        self._milestone[reached] += 1
        for player in reached.tolist():
            self._milestone_since[player] = close_of(day)
        return quests

    def _milestones(
        self, players: NDArray[np.intp], *, completed_at: datetime | None = None
    ) -> Iterator[Quest]:
        for player in players.tolist():
            milestone_index, since = int(self._milestone[player]), self._milestone_since[player]
            keys = np.array([player * len(_MILESTONE_TARGETS) + milestone_index])
            yield build_quest(
                make_ids(Kind.MILESTONE, seed=self._seed, when=since, keys=keys)[0],
                self._user_ids[player],
                milestone(MILESTONES[milestone_index]),
                progress=Decimal(int(self._wins[player])),
                status="ACTIVE" if completed_at is None else "COMPLETED",
                created_at=since,
                expires_at=None,
                completed_at=completed_at,
            )
