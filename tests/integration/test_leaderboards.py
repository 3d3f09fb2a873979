"""Leaderboards: order, shared ranks, pages, neighbours, and what a cached leaderboard follows."""

import math
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core import EnhancedDatabaseService
from core.errors import InvalidInput, LeaderboardEntryNotFound, UserNotFound
from core.records import LeaderboardUpdate, User
from tests.conftest import Execute

DAY = date(2026, 3, 2)
BOARD = "daily_returns"


@pytest.fixture
def players(service: EnhancedDatabaseService) -> list[User]:
    """Twelve players, in the order in which they were created."""
    return [service.create_user(username=f"player{n:02}") for n in range(12)]


def fill(service: EnhancedDatabaseService, players: list[User], scores: list[int]) -> None:
    """Put the players on the leaderboard one after the other."""
    for player, score in zip(players, scores, strict=False):
        service.update_leaderboard_entry(player.id, BOARD, Decimal(score), DAY)


def test_equal_scores_share_their_rank(service: EnhancedDatabaseService, players: list[User]) -> None:
    """The ranks are 1, 2, 2, 4; of equal scores the earlier entry is first."""
    fill(service, players, [5, 3, 3, 1])
    board = service.get_leaderboard(BOARD, DAY)
    assert [entry.rank for entry in board] == [1, 2, 2, 4]
    assert [entry.username for entry in board] == ["player00", "player01", "player02", "player03"]
    assert [entry.score for entry in board] == [5, 3, 3, 1]


def test_among_equals_the_first_to_enter_stands_first(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """A later change of the score keeps the order of entry."""
    fill(service, players[::-1], [1] * 12)
    service.update_leaderboard_entry(players[11].id, BOARD, Decimal(2), DAY)
    service.update_leaderboard_entry(players[11].id, BOARD, Decimal(1), DAY)
    names = [entry.username for entry in service.get_leaderboard(BOARD, DAY)]
    assert names == [player.username for player in players[::-1]]


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    scores=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    limit=st.integers(1, 12),
    offset=st.integers(0, 12),
    radius=st.integers(0, 5),
    bucket=st.integers(1, 4),
    data=st.data(),
)
def test_pages_ranks_and_neighbours_agree(  # each is a dimension of the property
    service: EnhancedDatabaseService,
    players: list[User],
    execute: Execute,
    scores: list[int],
    limit: int,
    offset: int,
    radius: int,
    bucket: int,
    data: st.DataObject,
) -> None:
    """For all scores and buckets every call has the same order and the same ranks."""
    execute("TRUNCATE leaderboard_entries")
    before = data.draw(st.lists(st.integers(0, 4), max_size=len(scores)))
    fill(service, players, before)
    execute("SELECT leaderboard_fold(%s, %s, %s)", (DAY, BOARD, bucket))
    fill(service, players, scores)
    if data.draw(st.booleans()):
        execute("SELECT leaderboard_fold(%s, %s, %s)", (DAY, BOARD, bucket))
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], n))
    expected = [(players[n].id, 1 + sum(score > scores[n] for score in scores)) for n in order]
    page = service.get_leaderboard(BOARD, DAY, limit, offset=offset)
    assert [(e.user_id, e.rank) for e in page] == expected[offset : offset + limit]
    place = data.draw(st.integers(0, len(scores) - 1))
    user_id, rank = expected[place]
    assert service.get_user_rank(user_id, BOARD, DAY).rank == rank
    around = service.get_leaderboard_around(user_id, BOARD, DAY, radius=radius)
    assert [(e.user_id, e.rank) for e in around] == expected[max(0, place - radius) : place + radius + 1]


def test_every_limit_follows_a_change(service: EnhancedDatabaseService, players: list[User]) -> None:
    """One new score is shown under all cached limits."""
    fill(service, players, [3, 2, 1])
    limits = (1, 2, 10, 50, 999)
    for limit in limits:
        service.get_leaderboard(BOARD, DAY, limit)
    service.update_leaderboard_entry(players[2].id, BOARD, Decimal(9), DAY)
    for limit in limits:
        assert service.get_leaderboard(BOARD, DAY, limit)[0].user_id == players[2].id
    service.batch_update_leaderboard(BOARD, [LeaderboardUpdate(players[1].id, Decimal(10))], DAY)
    for limit in limits:
        assert service.get_leaderboard(BOARD, DAY, limit)[0].user_id == players[1].id


def test_a_change_leaves_other_leaderboards_cached(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """Other categories and other days are not loaded again."""
    fill(service, players, [1])
    service.update_leaderboard_entry(players[0].id, "total_value", Decimal(1), DAY)
    service.get_leaderboard("total_value", DAY)
    service.update_leaderboard_entry(players[0].id, BOARD, Decimal(2), DAY)
    before = service.cache_stats().caches["leaderboard"].misses
    service.get_leaderboard("total_value", DAY)
    assert service.cache_stats().caches["leaderboard"].misses == before


def test_a_renamed_player_shows_on_every_cached_leaderboard(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """All categories and limits show the new name at once."""
    fill(service, players, [1])
    service.update_leaderboard_entry(players[0].id, "total_value", Decimal(1), DAY)
    for category in (BOARD, "total_value"):
        for limit in (10, 50):
            service.get_leaderboard(category, DAY, limit)
    service.update_user_profile(players[0].id, username="renamed")
    for category in (BOARD, "total_value"):
        for limit in (10, 50):
            assert service.get_leaderboard(category, DAY, limit)[0].username == "renamed"


def test_a_cached_leaderboard_is_read_once(service: EnhancedDatabaseService, players: list[User]) -> None:
    """The second read runs no statement."""
    fill(service, players, [1])
    first = service.get_leaderboard(BOARD, DAY)
    statements: list[str] = []
    service._database.query_hooks.append(lambda event: statements.append(event.sql))
    assert service.get_leaderboard(BOARD, DAY) == first
    assert statements == []


def test_batch_writes_last_wins_and_reports_missing(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """Unknown players are returned, known ones written, and of two scores the later is stored."""
    nobody = uuid.uuid4()
    result = service.batch_update_leaderboard(
        BOARD,
        [
            LeaderboardUpdate(players[0].id, Decimal(1)),
            LeaderboardUpdate(nobody, Decimal(2)),
            LeaderboardUpdate(str(players[0].id), Decimal(3), {"strategy": "cash"}),
            LeaderboardUpdate(players[1].id, Decimal("2.555")),
        ],
        DAY,
    )
    assert result.updated == 2
    assert [missing.user_id for missing in result.missing] == [nobody]
    board = service.get_leaderboard(BOARD, DAY)
    assert [(e.score, dict(e.metadata)) for e in board] == [
        (3, {"strategy": "cash"}),
        (Decimal("2.56"), {}),
    ]


def test_metadata_stays_unless_given(service: EnhancedDatabaseService, players: list[User]) -> None:
    """A new score keeps the stored metadata."""
    service.update_leaderboard_entry(players[0].id, BOARD, Decimal(1), DAY, {"note": "first"})
    entry = service.update_leaderboard_entry(players[0].id, BOARD, Decimal(2), DAY)
    assert entry.metadata == {"note": "first"}
    entry = service.update_leaderboard_entry(players[0].id, BOARD, Decimal(2), DAY, {"note": "new"})
    assert entry.metadata == {"note": "new"}


@pytest.mark.parametrize(
    ("category", "score", "message"),
    [
        ("c" * 51, 1, "category is"),
        (BOARD, math.nan, "score is nan"),
        (BOARD, Decimal("Infinity"), "score is"),
        (BOARD, 10**13, "score is"),
        (BOARD, None, "score is None"),
    ],
)
def test_bad_input_changes_nothing(
    service: EnhancedDatabaseService,
    players: list[User],
    execute: Execute,
    category: Any,
    score: Any,
    message: str,
) -> None:
    """This holds for a single score and for a batch."""
    with pytest.raises(InvalidInput, match=message):
        service.update_leaderboard_entry(players[0].id, category, score, DAY)
    with pytest.raises(InvalidInput, match=message):
        service.batch_update_leaderboard(
            category,
            [LeaderboardUpdate(players[1].id, Decimal(1)), LeaderboardUpdate(players[0].id, score)],
            DAY,
        )
    assert execute("SELECT count(*) FROM leaderboard_entries") == [(0,)]


def test_bad_pages_are_refused(service: EnhancedDatabaseService, players: list[User]) -> None:
    """Limits, offsets and radii have bounds."""
    for limit in (0, 100_000):
        with pytest.raises(InvalidInput, match="limit is"):
            service.get_leaderboard(BOARD, DAY, limit)
    with pytest.raises(InvalidInput, match="offset is -1"):
        service.get_leaderboard(BOARD, DAY, offset=-1)
    with pytest.raises(InvalidInput, match="radius is 101"):
        service.get_leaderboard_around(players[0].id, BOARD, DAY, radius=101)
    with pytest.raises(InvalidInput, match="session_date is None"):
        service.close_session(None)  # type: ignore[arg-type]  # wrong on purpose


def test_who_is_not_there(service: EnhancedDatabaseService, players: list[User]) -> None:
    """A player without an entry and a missing user raise different errors."""
    for call in (service.get_user_rank, service.get_leaderboard_around):
        with pytest.raises(LeaderboardEntryNotFound, match=BOARD):
            call(players[0].id, BOARD, DAY)
    with pytest.raises(UserNotFound):
        service.update_leaderboard_entry(uuid.uuid4(), BOARD, Decimal(1), DAY)
    assert service.get_leaderboard(BOARD, DAY) == ()


def test_close_session_stores_the_ranks(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """It stores them for every category of that day only; a second call changes nothing."""
    fill(service, players, [5, 3, 3, 1])
    service.update_leaderboard_entry(players[0].id, "total_value", Decimal(1), DAY)
    service.update_leaderboard_entry(players[0].id, BOARD, Decimal(1))
    assert service.close_session(DAY) == 5
    ranks = "SELECT category, rank FROM leaderboard_entries WHERE session_date = %s ORDER BY 1, 2"
    expected = [(BOARD, 1), (BOARD, 2), (BOARD, 2), (BOARD, 4), ("total_value", 1)]
    assert execute(ranks, (DAY,)) == expected
    assert execute(ranks, (datetime.now(UTC).date(),)) == [(BOARD, None)]
    assert service.close_session(DAY) == 5
    assert execute(ranks, (DAY,)) == expected
    assert service.close_session(date(1999, 1, 1)) == 0


def test_categories_of_a_session(service: EnhancedDatabaseService, players: list[User]) -> None:
    """They are in alphabetical order, each once."""
    for category in ("total_value", BOARD, "quests_completed"):
        for player in players[:2]:
            service.update_leaderboard_entry(player.id, category, Decimal(1), DAY)
    assert service.list_leaderboard_categories(DAY) == (BOARD, "quests_completed", "total_value")
    assert service.list_leaderboard_categories(date(1999, 1, 1)) == ()


def test_leaderboard_key_and_ttl(
    service: EnhancedDatabaseService, players: list[User], redis_client: redis.Redis
) -> None:
    """The key has the documented form, and lives up to 120 s."""
    fill(service, players, [1])
    service.get_leaderboard(BOARD, DAY)
    assert 100 < redis_client.ttl(f"leaderboard:{BOARD}:{DAY}:50") <= 120
