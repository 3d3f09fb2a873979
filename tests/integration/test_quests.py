"""Quests: given, advanced, completed, expired."""

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
    """Alice's quest of three."""
    return service.create_quest(
        alice.id,
        type="WINNING_SESSIONS",
        title="Win three sessions",
        target_value=Decimal(3),
        reward_type="CASH",
        reward_value=Decimal(100),
        expires_at=datetime.now(UTC) + timedelta(days=1),
    )


def test_a_new_quest_is_active_at_once(service: EnhancedDatabaseService, alice: User, quest: Quest) -> None:
    """Also where the list was cached before; oldest first."""
    assert service.get_user_active_quests(alice.id) == (quest,)
    second = service.create_quest(alice.id, type="T", title="Second", target_value=Decimal(1))
    assert service.get_user_active_quests(alice.id) == (quest, second)


def test_completes_at_the_target(service: EnhancedDatabaseService, alice: User, quest: Quest) -> None:
    """Below it is active, at it completed and gone from the list."""
    assert service.update_quest_progress(quest.id, Decimal(2)).status == "ACTIVE"
    [cached] = service.get_user_active_quests(alice.id)
    assert cached.current_progress == 2
    done = service.update_quest_progress(str(quest.id), Decimal(3))
    assert (done.status, done.current_progress) == ("COMPLETED", 3)
    assert service.get_user_active_quests(alice.id) == ()


def test_a_quest_remembers_when_it_was_completed(service: EnhancedDatabaseService, quest: Quest) -> None:
    """By the clock of the service, and by nothing before."""
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    service._clock = lambda: now
    assert service.update_quest_progress(quest.id, Decimal(2)).completed_at is None
    done = service.update_quest_progress(quest.id, Decimal(3))
    assert done.completed_at == now
    assert service.get_user_quests(quest.user_id) == (done,)


def test_a_quest_is_not_completed_before_it_was_given(service: EnhancedDatabaseService, quest: Quest) -> None:
    """The clock of a process that is behind the server's does not make a time to complete negative."""
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
def test_no_writer_gives_another_quest_a_time_of_completion(
    quest: Quest, execute: Execute, changes: str
) -> None:
    """The database refuses it from every program."""
    with pytest.raises(psycopg2.IntegrityError, match="quests_completed_at"):
        execute(f"UPDATE quests SET {changes} WHERE id = %s", (str(quest.id),))


@pytest.mark.parametrize("has_time", [True, False])
def test_a_load_keeps_a_known_or_unknown_time_of_completion(
    service: EnhancedDatabaseService, quest: Quest, *, has_time: bool
) -> None:
    """Without a time the quest is completed all the same."""
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


def test_a_load_refuses_a_completion_before_the_quest_was_given(
    service: EnhancedDatabaseService, quest: Quest
) -> None:
    """Naming both times."""
    early = msgspec.structs.replace(
        quest, status="COMPLETED", completed_at=quest.created_at - timedelta(minutes=1)
    )
    with pytest.raises(InvalidInput, match=r"quest 1: completed_at is .*, before created_at"):
        service.load_quests([quest, early])


def test_a_finished_quest_does_not_move(service: EnhancedDatabaseService, quest: Quest) -> None:
    """Completed stays completed, and the error says so."""
    service.update_quest_progress(quest.id, Decimal(5))
    with pytest.raises(InvalidInput, match="is COMPLETED"):
        service.update_quest_progress(quest.id, Decimal(1))


def test_an_overdue_quest_expires(
    service: EnhancedDatabaseService, alice: User, quest: Quest, execute: Execute
) -> None:
    """Past its time it is neither listed nor advanced, even before it is marked."""
    service.get_user_active_quests(alice.id)
    execute("UPDATE quests SET expires_at = now() - interval '1 second'")
    service.clear_user_cache(alice.id)
    assert service.get_user_active_quests(alice.id) == ()
    with pytest.raises(InvalidInput, match="past its time"):
        service.update_quest_progress(quest.id, Decimal(3))
    assert service.expire_quests() == 1
    assert service.expire_quests() == 0
    assert execute("SELECT status FROM quests") == [("EXPIRED",)]


def test_a_cached_list_does_not_outlive_a_quest(service: EnhancedDatabaseService, alice: User) -> None:
    """What expires while it is cached is left out."""
    now = [datetime.now(UTC)]
    service._clock = lambda: now[0]
    service.create_quest(
        alice.id, type="T", title="Soon", target_value=Decimal(1), expires_at=now[0] + timedelta(minutes=1)
    )
    assert len(service.get_user_active_quests(alice.id)) == 1
    now[0] += timedelta(minutes=2)
    assert service.get_user_active_quests(alice.id) == ()


def test_unknown_ids_are_named(service: EnhancedDatabaseService, execute: Execute) -> None:
    """A quest that does not exist, a player that does not."""
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
        ({"expires_at": datetime(2090, 1, 1)}, "time zone"),  # naive on purpose
    ],
)
def test_bad_input_gives_no_quest(
    service: EnhancedDatabaseService, alice: User, execute: Execute, values: dict[str, Any], message: str
) -> None:
    """The error names the value, and the table stays empty."""
    with pytest.raises(InvalidInput, match=message):
        service.create_quest(alice.id, **{"type": "T", "title": "T", "target_value": 1, **values})
    assert execute("SELECT count(*) FROM quests") == [(0,)]


@pytest.mark.parametrize("progress", [-1, math.nan, "much", None])
def test_bad_progress_changes_nothing(
    service: EnhancedDatabaseService, alice: User, quest: Quest, progress: Any
) -> None:
    """Progress that is no amount is refused."""
    with pytest.raises(InvalidInput, match="progress is"):
        service.update_quest_progress(quest.id, progress)
    assert service.get_user_active_quests(alice.id) == (quest,)


def test_quests_key_and_ttl(service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis) -> None:
    """The key is the design's, and lives up to 180 s."""
    service.get_user_active_quests(alice.id)
    assert 150 < redis_client.ttl(f"quests:{alice.id}") <= 180


def test_a_quest_that_is_loaded_for_another_player_leaves_the_first(
    service: EnhancedDatabaseService, alice: User, bob: User, quest: Quest
) -> None:
    """Both lists were cached, and both follow."""
    assert service.get_user_active_quests(alice.id) == (quest,)
    assert service.get_user_active_quests(bob.id) == ()
    moved = msgspec.structs.replace(quest, user_id=bob.id)
    assert service.load_quests([moved]) == 1
    assert service.get_user_active_quests(alice.id) == ()
    assert service.get_user_active_quests(bob.id) == (moved,)
