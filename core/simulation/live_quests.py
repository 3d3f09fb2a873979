"""The quests of one live session.

Owns each player's quest of the day, the milestones, and the leaderboard of completed quests.

A completed quest is first counted on the leaderboard, with its id in the metadata of the entry, and then
marked as completed. If the simulator is killed between these two writes, it finds the id in the metadata
after its restart, and does not count the quest twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from frozendict import frozendict

from core.errors import InvalidInput, QuestNotFound
from core.records import QUESTS_COMPLETED, LeaderboardEntry, LeaderboardUpdate, Quest, User
from core.service import EnhancedDatabaseService
from core.service.argument_checks import MAX_LIMIT
from core.simulation.amounts import to_cents, to_money
from core.simulation.identifiers import hash_ids
from core.simulation.quests import (
    DAILY_TYPES,
    GAIN_TODAY,
    MILESTONE,
    REWARD_TYPE,
    QuestRule,
    choose_daily,
    choose_receivers,
    next_milestone,
)
from core.simulation.trading import SessionResult
from core.simulation.trading_hours import midnight_of

COUNTED: Final = "completed"
"""The key in the metadata of a leaderboard entry for the quests that were completed in the session.

Its value maps the id of each quest to the type of the quest.
"""

_WRITTEN_STEPS: Final = 10  # progress is written each time it has grown by a tenth of the target


@dataclass
class DailyQuest:
    """A player's quest of the day.

    `best` is its highest progress so far, and `written` is the progress in the database; both in cents.
    """

    quest: Quest
    best: int
    written: int

    @property
    def target(self) -> int:
        """The quest's target in cents."""
        return to_cents(self.quest.target_value)

    @property
    def is_reached(self) -> bool:
        """Whether the progress has reached the target."""
        return self.best >= self.target

    @property
    def is_unwritten(self) -> bool:
        """Whether the progress has to be written.

        It has to be written if the target is reached, or if it has grown by a tenth of the target since the
        last write.
        """
        return self.is_reached or self.best - self.written >= self.target // _WRITTEN_STEPS

    def improve(self, gain: int, lead: int) -> None:
        """Set `best` to the current progress if that is higher.

        The type of the quest decides whether the progress is `gain`, or `lead`, the lead over the average
        player.
        """
        self.best = max(self.best, gain if self.quest.type == GAIN_TODAY else lead)


@dataclass
class PlayerQuests:
    """The quests of one player. `counted` maps the id of each quest completed today to its type."""

    user_id: UUID
    score_before: int
    counted: dict[str, str]
    daily: DailyQuest | None = None

    @property
    def score(self) -> int:
        """The number of quests that the player has completed so far."""
        return self.score_before + len(self.counted)


class LiveQuests:
    """The quests of the players of a session, in the order of the players."""

    def __init__(self, service: EnhancedDatabaseService, day: date, players: list[PlayerQuests]) -> None:
        self.players = players
        self._service = service
        self._day = day

    def advance(self, result: SessionResult, check_stop: Callable[[], None]) -> None:
        """Update all quests with the current result of the players; complete quests that reach the target."""
        if not self.players:
            return
        gains = result.change_cents
        leads = result.value_cents - int(result.value_cents.mean())
        for player, gain, lead in zip(self.players, gains.tolist(), leads.tolist(), strict=True):
            if player.daily is not None:
                player.daily.improve(gain, lead)
        self._count([player for player in self.players if player.daily and player.daily.is_reached])
        for player in self.players:
            if player.daily is not None and player.daily.is_unwritten:
                check_stop()
                self._store(player, player.daily)

    def write_leaderboard(self, players: list[PlayerQuests]) -> None:
        """Write how many quests these players have completed, and the ids of the quests completed today."""
        updates = [
            LeaderboardUpdate(player.user_id, Decimal(player.score), {COUNTED: player.counted})
            for player in players
        ]
        self._service.batch_update_leaderboard(QUESTS_COMPLETED, updates, session_date=self._day)

    def _count(self, players: list[PlayerQuests]) -> None:
        for player in players:
            if player.daily is not None:
                player.counted[str(player.daily.quest.id)] = player.daily.quest.type
        self.write_leaderboard(players)

    def _store(self, player: PlayerQuests, daily: DailyQuest) -> None:
        try:
            self._service.update_quest_progress(daily.quest.id, to_money(daily.best))
        except (InvalidInput, QuestNotFound):  # the quest expired at midnight, or was removed
            player.daily = None
            if player.counted.pop(str(daily.quest.id), None) is not None:
                self.write_leaderboard([player])
            return
        daily.written = daily.best
        if daily.is_reached:
            player.daily = None


def open_quests(
    service: EnhancedDatabaseService, day: date, users: Sequence[User], check_stop: Callable[[], None]
) -> LiveQuests:
    """Return the quests of the session of `day`; create the quests that the players do not have yet."""
    today = _read_leaderboard(service, day)
    counted = {user.id: _read_counted(today.get(user.id)) for user in users}
    # exclude the quests in `counted` here: `PlayerQuests.score` adds them to this number
    before = service.count_completed_quests(
        counted, excluding=[quest_id for quests in counted.values() for quest_id in quests]
    )
    receivers = choose_receivers(hash_ids(user.id for user in users), day.toordinal()).tolist()
    players, milestones = [], []
    for user in users:
        check_stop()
        player = PlayerQuests(
            user_id=user.id,
            score_before=before[user.id],
            counted=counted[user.id],
        )
        active = service.get_user_active_quests(user.id)
        wins = count_wins(service, user.id, day)
        milestone = find_milestone(active)
        if milestone is not None and wins >= milestone.target_value:
            player.counted[str(milestone.id)] = milestone.type
        _continue_daily(player, active, midnight_of(day + timedelta(days=1)))
        players.append(player)
        milestones.append((milestone, wins))
    quests = LiveQuests(service, day, players)
    quests.write_leaderboard([player for player in players if player.score])
    for player, (milestone, wins), is_receiver in zip(players, milestones, receivers, strict=True):
        check_stop()
        _advance_milestone(service, player.user_id, milestone, wins)
        if is_receiver:
            _give_daily(service, player, day)
    return quests


def _read_counted(entry: LeaderboardEntry | None) -> dict[str, str]:
    counted = entry.metadata.get(COUNTED) if entry is not None else None
    return dict(counted) if isinstance(counted, frozendict) else {}


def find_milestone(active: Sequence[Quest]) -> Quest | None:
    """Return the milestone among a player's active quests, or None if there is none."""
    return next((quest for quest in active if quest.type == MILESTONE), None)


def count_wins(service: EnhancedDatabaseService, user_id: UUID, day: date) -> int:
    """Return the number of sessions before `day` that the player finished with a gain."""
    wins, before = 0, day
    while page := service.get_portfolio_history(user_id, limit=MAX_LIMIT, before=before):
        wins += sum(portfolio.day_change > 0 for portfolio in page)
        before = page[-1].session_date
        if len(page) < MAX_LIMIT:
            break
    return wins


def _continue_daily(player: PlayerQuests, active: Sequence[Quest], end: datetime) -> None:
    for quest in active:
        if quest.type in DAILY_TYPES and quest.expires_at == end:
            # an active quest in `counted` is complete: an earlier simulator counted it, and ended before it
            # marked the quest as completed
            is_counted = str(quest.id) in player.counted
            progress = to_cents(quest.current_progress)
            best = to_cents(quest.target_value) if is_counted else progress
            player.daily = DailyQuest(quest, best=best, written=progress)


def _give_daily(service: EnhancedDatabaseService, player: PlayerQuests, day: date) -> None:
    if player.daily is None and not DAILY_TYPES.intersection(player.counted.values()):
        rule = choose_daily(player.user_id, day)
        quest = _create(service, player.user_id, rule, expires_at=midnight_of(day + timedelta(days=1)))
        player.daily = DailyQuest(quest, best=0, written=0)


def _advance_milestone(
    service: EnhancedDatabaseService, user_id: UUID, milestone: Quest | None, wins: int
) -> None:
    if milestone is not None and milestone.current_progress != wins:
        service.update_quest_progress(milestone.id, Decimal(wins))
    if milestone is None or wins >= milestone.target_value:
        rule = next_milestone(wins)
        if rule is not None:
            quest = _create(service, user_id, rule, expires_at=None)
            service.update_quest_progress(quest.id, Decimal(wins))


def _create(
    service: EnhancedDatabaseService,
    user_id: UUID,
    rule: QuestRule,
    *,
    expires_at: datetime | None,
) -> Quest:
    return service.create_quest(
        user_id,
        type=rule.type,
        title=rule.title,
        description=rule.description,
        target_value=rule.target,
        reward_type=REWARD_TYPE,
        reward_value=rule.reward,
        expires_at=expires_at,
    )


def _read_leaderboard(service: EnhancedDatabaseService, day: date) -> dict[UUID, LeaderboardEntry]:
    entries: dict[UUID, LeaderboardEntry] = {}
    while True:
        page = service.get_leaderboard(QUESTS_COMPLETED, day, MAX_LIMIT, offset=len(entries))
        entries |= {entry.user_id: entry for entry in page}
        if len(page) < MAX_LIMIT:
            return entries
