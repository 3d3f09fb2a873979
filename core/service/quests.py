"""Quests: the tasks of players. A quest is completed when its progress reaches its target."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from core.cache import Cached
from core.cache.kinds import QUESTS, format_id
from core.errors import ConstraintViolated, InvalidInput, QuestNotFound, UserNotFound
from core.queries import quests as queries
from core.records import PlayerQuest, Quest, QuestTotals
from core.service.argument_checks import (
    CENT,
    MAX_DESCRIPTION,
    MAX_MONEY,
    check_after,
    check_bucket,
    check_decimal,
    check_id,
    check_ids,
    check_limit,
    check_money,
    check_text,
    check_time,
    find_id,
    find_place,
)
from core.service.paging import stream_pages
from core.service.writes import ServiceBase, format_width, new_id


def quests_key(user_id: UUID) -> str:
    """Return the cache key of the active quests of a user."""
    return f"quests:{format_id(user_id)}"


# Every write of a quest invalidates the cached list of its user. The expiry of a quest does not, so each read
# checks `expires_at`.
_ACTIVE = Cached(QUESTS, tuple[Quest, ...], quests_key, time_dependent=True, is_report=False)
# A change of a quest does not invalidate the cached values below: they expire.
_TOTALS = Cached(
    QUESTS, tuple[QuestTotals, ...], lambda width: f"quests:totals:{format_width(width)}", time_dependent=True
)
_EXPIRING = Cached(
    QUESTS,
    tuple[PlayerQuest, ...],
    lambda count, width, quest_type: f"quests:expiring:{count}:{format_width(width)}:{quest_type}",
    ttl_seconds=60,
    time_dependent=True,
)


class Quests(ServiceBase):
    """Calls of the service about quests."""

    def get_user_active_quests(self, user_id: UUID | str) -> tuple[Quest, ...]:
        """Return the quests that a user can still complete, oldest first.

        The answer is at most 180 s old, and never older than the last change through the service. An expired
        quest is left out even while it is cached. Raises `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        now = self._clock()

        def load(user_id: UUID) -> tuple[Quest, ...]:
            return self._read(queries.list_active, user_id, now)

        quests = self._cache.get_or_load(_ACTIVE, load, checked)
        return tuple(q for q in quests if q.expires_at is None or q.expires_at > now)

    def _warm_quests(self, operation: str, user_ids: Sequence[UUID]) -> None:
        def load(missing: Sequence[UUID]) -> dict[UUID, tuple[Quest, ...]]:
            return self._database.read(operation, queries.list_active_of_many, missing, self._clock())

        self._cache.get_or_load_many(_ACTIVE, {quests_key(user_id): user_id for user_id in user_ids}, load)

    def list_quests(self, *, limit: int = 100, after: Quest | None = None) -> tuple[Quest, ...]:
        """Return up to `limit` quests, of all users and statuses, in the order of their ids, uncached.

        The ids that `create_quest` makes are in the order of creation. `after` is the last quest of the
        previous page. Raises `InvalidInput`.
        """
        last = check_after(after, Quest)
        return self._read(queries.list_after, find_id(last), check_limit(limit))

    def stream_quests(self, *, after: Quest | None = None) -> Iterator[Quest]:
        """Yield all quests in the order of their ids.

        Reads batches of 2,000 quests. Each batch is one statement with its own snapshot, and no connection is
        held between batches. `after` is the last quest already read. Raises `InvalidInput`.
        """

        def load(last: Quest | None, limit: int) -> tuple[Quest, ...]:
            return self._read(queries.list_after, find_id(last), limit)

        return stream_pages(load, check_after(after, Quest))

    def get_quest_totals(self, *, within: timedelta = timedelta(hours=24)) -> tuple[QuestTotals, ...]:
        """Return counts and rewards of all quests, by type and kind of reward.

        An active quest counts as expiring if it ends within the time `within` from now. The answer is at most
        180 s old. Raises `InvalidInput`.
        """

        def load(width: timedelta) -> tuple[QuestTotals, ...]:
            now = self._clock()
            return self._read(queries.sum_quests, now, now + width)

        return self._cache.get_or_load(_TOTALS, load, check_bucket(within, "within"))

    def list_expiring_quests(
        self, *, limit: int = 20, within: timedelta = timedelta(days=7), type: str | None = None
    ) -> tuple[PlayerQuest, ...]:
        """Return up to `limit` active quests that end within the time `within` from now, soonest first.

        Lists quests of one `type` (None: of all). Of quests that end at the same time, the one nearest to its
        target comes first. The answer is at most 60 s old, but quests that have ended are left out. Raises
        `InvalidInput`.
        """
        count, width, now = check_limit(limit), check_bucket(within, "within"), self._clock()
        quest_type = check_text(type, "type", max_length=50, required=False)

        def load(count: int, width: timedelta, quest_type: str | None) -> tuple[PlayerQuest, ...]:
            return self._read(queries.list_expiring, count, now, now + width, quest_type=quest_type)

        found = self._cache.get_or_load(_EXPIRING, load, count, width, quest_type)
        return tuple(item for item in found if item.quest.expires_at and item.quest.expires_at > now)

    def get_user_quests(
        self, user_id: UUID | str, *, limit: int = 100, after: Quest | None = None
    ) -> tuple[Quest, ...]:
        """Return up to `limit` quests of a user, of every status, newest first, uncached.

        `after` is the last quest of the previous page. The answer is empty for a user without quests, and for
        a user that does not exist. Raises `InvalidInput`.
        """
        checked, count = check_id(user_id, "user_id"), check_limit(limit)
        place = find_place(check_after(after, Quest, user_id=checked))
        return self._read(queries.list_of_user, checked, count, after=place)

    def create_quest(
        self,
        user_id: UUID | str,
        *,
        type: str,
        title: str,
        target_value: Decimal,
        description: str | None = None,
        reward_type: str | None = None,
        reward_value: Decimal | None = None,
        expires_at: datetime | None = None,
    ) -> Quest:
        """Give a user an active quest and return it.

        Amounts are rounded half-even to two decimals; `expires_at` must be in the future. Raises
        `UserNotFound`, `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        values: dict[str, Any] = {
            "id": new_id(),
            "user_id": checked,
            "type": check_text(type, "type", max_length=50),
            "title": check_text(title, "title", max_length=200),
            "description": check_text(description, "description", max_length=MAX_DESCRIPTION, required=False),
            "target_value": check_decimal(
                target_value, "target_value", minimum=CENT, maximum=MAX_MONEY, quantum=CENT
            ),
            "reward_type": check_text(reward_type, "reward_type", max_length=50, required=False),
            "reward_value": None if reward_value is None else check_money(reward_value, "reward_value"),
            "expires_at": self._check_expiry(expires_at),
        }
        keys = [quests_key(checked)]
        try:
            return self._write_one(keys, queries.insert_quest, values)
        except ConstraintViolated as error:
            raise UserNotFound(f"no user has the id {checked}; create_user makes one") from error

    def update_quest_progress(self, quest_id: UUID | str, progress: Decimal) -> Quest:
        """Set the progress of a quest and return the quest. It is completed when it reaches its target.

        `completed_at` of a completed quest is the time of this call. The progress is rounded half-even to two
        decimals, and may be less than before. Raises `QuestNotFound`, and `InvalidInput`, also for a quest
        that is completed or past its `expires_at`. Such a quest stays as it is.
        """
        checked = check_id(quest_id, "quest_id")
        amount = check_money(progress, "progress")
        with self._write() as (database, changes):
            quest = queries.update_progress(database, checked, amount, self._clock())
            if quest is None:
                raise self._not_active(queries.find_quest(database, checked), checked)
            changes.invalidate(quests_key(quest.user_id))
        return quest

    def count_completed_quests(
        self, user_ids: Iterable[UUID | str], *, excluding: Iterable[UUID | str] = ()
    ) -> dict[UUID, int]:
        """Return how many quests each of these players has completed, uncached.

        The quests with the ids `excluding` do not count. A player without completed quests has 0. Raises
        `InvalidInput`.
        """
        players = check_ids(user_ids, "user_ids")
        excluded = check_ids(excluding, "excluding")
        found = self._read(queries.count_completed, players, excluded)
        return {player: found.get(player, 0) for player in players}

    def expire_quests(self) -> int:
        """Expire every active quest that is past its `expires_at`. Return their number. Safe to repeat."""

        def write() -> int:
            with self._write() as (database, changes):
                owners = queries.expire_quests(database, self._clock())
                changes.invalidate(*(quests_key(owner) for owner in set(owners)))
            return len(owners)

        # a deadlock is possible: two callers may lock the rows in different orders
        return self._retry_conflicts(write)

    def _check_expiry(self, value: Any) -> datetime | None:
        if value is None:
            return None
        expiry = check_time(value, "expires_at")
        if expiry <= self._clock():
            raise InvalidInput(f"expires_at is {expiry}, which is past; give a later time")
        return expiry

    @staticmethod
    def _not_active(quest: Quest | None, quest_id: UUID) -> Exception:
        if quest is None:
            return QuestNotFound(f"no quest has the id {quest_id}; create_quest makes one")
        status = quest.status if quest.status != "ACTIVE" else "past its time"
        return InvalidInput(f"quest {quest_id} is {status}; only an active quest has progress")
