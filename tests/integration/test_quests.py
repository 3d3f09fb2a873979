"""Quests: creation, progress, completion and expiry."""

import math
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg2
import pytest
import redis

from core import EnhancedDatabaseService
from core.errors import InvalidInput, QuestNotFound, UserNotFound
from core.records import Quest, User
from tests.conftest import Execute


@pytest.fixture
def quest(service: EnhancedDatabaseService, alice: User) -> Quest:
    """Return a new quest of alice with a target of 3."""
    return service.create_quest(
        alice.id,
        type="WINNING_SESSIONS",
        title="Win three sessions",
        target_value=Decimal(3),
        reward_type="CASH",
        reward_value=Decimal(100),
        expires_at=datetime.now(UTC) + timedelta(days=1),
    )


def test_a_new_quest_is_listed_at_once(service: EnhancedDatabaseService, alice: User, quest: Quest) -> None:
    """A new quest is the last in the list of active quests, although the list was cached before."""
    assert service.get_user_active_quests(alice.id) == (quest,)
    second = service.create_quest(alice.id, type="T", title="Second", target_value=Decimal(1))
    assert service.get_user_active_quests(alice.id) == (quest, second)


def test_a_quest_is_completed_at_its_target(
    service: EnhancedDatabaseService, alice: User, quest: Quest
) -> None:
    """Below its target a quest is active. At its target it is completed and leaves the active quests."""
    assert service.update_quest_progress(quest.id, Decimal(2)).status == "ACTIVE"
    [cached] = service.get_user_active_quests(alice.id)
    assert cached.current_progress == 2
    done = service.update_quest_progress(str(quest.id), Decimal(3))
    assert (done.status, done.current_progress) == ("COMPLETED", 3)
    assert service.get_user_active_quests(alice.id) == ()


def test_a_completed_quest_has_its_time(service: EnhancedDatabaseService, quest: Quest) -> None:
    """completed_at is the time of the service's clock at completion, and None before."""
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    service._clock = lambda: now
    assert service.update_quest_progress(quest.id, Decimal(2)).completed_at is None
    done = service.update_quest_progress(quest.id, Decimal(3))
    assert done.completed_at == now
    assert service.get_user_quests(quest.user_id) == (done,)


def test_a_quest_is_not_completed_before_its_creation(service: EnhancedDatabaseService, quest: Quest) -> None:
    """If the process's clock is behind the server's, completed_at is created_at and not an earlier time."""
    service._clock = lambda: quest.created_at - timedelta(seconds=5)
    assert service.update_quest_progress(quest.id, Decimal(3)).completed_at == quest.created_at


@pytest.mark.parametrize(
    "changes",
    [
        "status = 'ACTIVE', completed_at = now()",
        "status = 'EXPIRED', completed_at = now()",
        "status = 'COMPLETED', completed_at = created_at - interval '1 second'",
    ],
)
def test_the_table_refuses_an_invalid_completion_time(quest: Quest, execute: Execute, changes: str) -> None:
    """The table refuses completed_at in a quest that is not completed, and a time before created_at."""
    with pytest.raises(psycopg2.IntegrityError, match="quests_completed_at"):
        execute(f"UPDATE quests SET {changes} WHERE id = %s", (str(quest.id),))


@pytest.mark.parametrize("has_time", [True, False])
def test_a_load_keeps_the_completion_time(
    service: EnhancedDatabaseService, quest: Quest, *, has_time: bool
) -> None:
    """A bulk load stores a completed quest unchanged, with or without completed_at."""
    done = msgspec.structs.replace(
        quest,
        status="COMPLETED",
        current_progress=Decimal("3.00"),
        completed_at=quest.created_at + timedelta(minutes=1) if has_time else None,
    )
    assert service.load_quests([done]) == 1
    assert service.load_quests([done]) == 0
    assert service.get_user_quests(quest.user_id) == (done,)
    assert service.count_completed_quests([quest.user_id]) == {quest.user_id: 1}


def test_a_load_refuses_completion_before_creation(service: EnhancedDatabaseService, quest: Quest) -> None:
    """A bulk load refuses completed_at before created_at with an error that names both."""
    early = msgspec.structs.replace(
        quest, status="COMPLETED", completed_at=quest.created_at - timedelta(minutes=1)
    )
    with pytest.raises(InvalidInput, match=r"quest 1: completed_at is .*, before created_at"):
        service.load_quests([quest, early])


def test_a_completed_quest_takes_no_progress(service: EnhancedDatabaseService, quest: Quest) -> None:
    """Progress of a completed quest is refused with an error that says it is COMPLETED."""
    service.update_quest_progress(quest.id, Decimal(5))
    with pytest.raises(InvalidInput, match="is COMPLETED"):
        service.update_quest_progress(quest.id, Decimal(1))


def test_an_overdue_quest_expires(
    service: EnhancedDatabaseService, alice: User, quest: Quest, execute: Execute
) -> None:
    """A quest past its deadline is not listed and takes no progress, even before it is marked EXPIRED."""
    service.get_user_active_quests(alice.id)
    execute("UPDATE quests SET expires_at = now() - interval '1 second'")
    service.clear_user_cache(alice.id)
    assert service.get_user_active_quests(alice.id) == ()
    with pytest.raises(InvalidInput, match="past its time"):
        service.update_quest_progress(quest.id, Decimal(3))
    assert service.expire_quests() == 1
    assert service.expire_quests() == 0
    assert execute("SELECT status FROM quests") == [("EXPIRED",)]


def test_a_cached_list_leaves_out_expired_quests(service: EnhancedDatabaseService, alice: User) -> None:
    """A quest that expires while the list is cached is left out of the list."""
    now = [datetime.now(UTC)]
    service._clock = lambda: now[0]
    service.create_quest(
        alice.id, type="T", title="Soon", target_value=Decimal(1), expires_at=now[0] + timedelta(minutes=1)
    )
    assert len(service.get_user_active_quests(alice.id)) == 1
    now[0] += timedelta(minutes=2)
    assert service.get_user_active_quests(alice.id) == ()


def test_unknown_ids_are_named(service: EnhancedDatabaseService, execute: Execute) -> None:
    """An unknown quest and an unknown user raise errors that name their ids."""
    unknown = uuid.uuid4()
    with pytest.raises(QuestNotFound, match=str(unknown)):
        service.update_quest_progress(unknown, Decimal(1))
    with pytest.raises(UserNotFound, match=str(unknown)):
        service.create_quest(unknown, type="T", title="T", target_value=Decimal(1))
    assert execute("SELECT count(*) FROM quests") == [(0,)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "t" * 51}, "type is"),
        ({"title": ""}, "title is ''"),
        ({"title": "t" * 201}, "title is"),
        ({"target_value": 0}, "target_value is 0"),
        ({"target_value": math.nan}, "target_value is nan"),
        ({"reward_value": -1}, "reward_value is -1"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "which is past"),
        ({"expires_at": datetime(2090, 1, 1)}, "time zone"),  # without a time zone
    ],
)
def test_invalid_input_creates_no_quest(
    service: EnhancedDatabaseService, alice: User, execute: Execute, values: dict[str, Any], message: str
) -> None:
    """Invalid input raises an error that names the value, and no quest is stored."""
    with pytest.raises(InvalidInput, match=message):
        service.create_quest(alice.id, **{"type": "T", "title": "T", "target_value": 1, **values})
    assert execute("SELECT count(*) FROM quests") == [(0,)]


@pytest.mark.parametrize("progress", [-1, math.nan, "much", None])
def test_invalid_progress_changes_nothing(
    service: EnhancedDatabaseService, alice: User, quest: Quest, progress: Any
) -> None:
    """Invalid progress is refused, and the quest is unchanged."""
    with pytest.raises(InvalidInput, match="progress is"):
        service.update_quest_progress(quest.id, progress)
    assert service.get_user_active_quests(alice.id) == (quest,)


def test_quests_key_and_ttl(service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis) -> None:
    """The active quests are cached under `quests:<user id>` for 150 to 180 s."""
    service.get_user_active_quests(alice.id)
    assert 150 < redis_client.ttl(f"quests:{alice.id}") <= 180


def test_a_load_can_move_a_quest_to_another_user(
    service: EnhancedDatabaseService, alice: User, bob: User, quest: Quest
) -> None:
    """A load that gives the quest to bob invalidates the cached lists of alice and bob."""
    assert service.get_user_active_quests(alice.id) == (quest,)
    assert service.get_user_active_quests(bob.id) == ()
    moved = msgspec.structs.replace(quest, user_id=bob.id)
    assert service.load_quests([moved]) == 1
    assert service.get_user_active_quests(alice.id) == ()
    assert service.get_user_active_quests(bob.id) == (moved,)
