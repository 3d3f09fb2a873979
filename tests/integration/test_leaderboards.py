"""Leaderboards: order, shared ranks, pages, neighbours, and invalidation of cached leaderboards."""

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
CATEGORY = "daily_returns"


@pytest.fixture
def players(service: EnhancedDatabaseService) -> list[User]:
    """Return twelve players in the order in which they were created."""
    return [service.create_user(username=f"player{n:02}") for n in range(12)]


def fill(service: EnhancedDatabaseService, players: list[User], scores: list[int]) -> None:
    """Write the scores, one for each player in order."""
    for player, score in zip(players, scores, strict=False):
        service.update_leaderboard_entry(player.id, CATEGORY, Decimal(score), DAY)


def test_equal_scores_share_their_rank(service: EnhancedDatabaseService, players: list[User]) -> None:
    """The scores 5, 3, 3, 1 have the ranks 1, 2, 2, 4; of equal scores the earlier entry is first."""
    fill(service, players, [5, 3, 3, 1])
    entries = service.get_leaderboard(CATEGORY, DAY)
    assert [entry.rank for entry in entries] == [1, 2, 2, 4]
    assert [entry.username for entry in entries] == ["player00", "player01", "player02", "player03"]
    assert [entry.score for entry in entries] == [5, 3, 3, 1]


def test_equal_scores_keep_the_order_of_entry(service: EnhancedDatabaseService, players: list[User]) -> None:
    """Equal scores are in the order of entry, even if one of them was changed and changed back."""
    fill(service, players[::-1], [1] * 12)
    service.update_leaderboard_entry(players[11].id, CATEGORY, Decimal(2), DAY)
    service.update_leaderboard_entry(players[11].id, CATEGORY, Decimal(1), DAY)
    names = [entry.username for entry in service.get_leaderboard(CATEGORY, DAY)]
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
def test_pages_ranks_and_neighbours_agree(
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
    """For random scores and bucket sizes pages, ranks and neighbours equal a plain sort of the scores."""
    execute("TRUNCATE leaderboard_entries")
    before = data.draw(st.lists(st.integers(0, 4), max_size=len(scores)))
    fill(service, players, before)
    execute("SELECT leaderboard_fold(%s, %s, %s)", (DAY, CATEGORY, bucket))
    fill(service, players, scores)
    if data.draw(st.booleans()):
        execute("SELECT leaderboard_fold(%s, %s, %s)", (DAY, CATEGORY, bucket))
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], n))
    expected = [(players[n].id, 1 + sum(score > scores[n] for score in scores)) for n in order]
    page = service.get_leaderboard(CATEGORY, DAY, limit, offset=offset)
    assert [(e.user_id, e.rank) for e in page] == expected[offset : offset + limit]
    place = data.draw(st.integers(0, len(scores) - 1))
    user_id, rank = expected[place]
    assert service.get_user_rank(user_id, CATEGORY, DAY).rank == rank
    around = service.get_leaderboard_around(user_id, CATEGORY, DAY, radius=radius)
    assert [(e.user_id, e.rank) for e in around] == expected[max(0, place - radius) : place + radius + 1]


def test_a_change_invalidates_every_limit(service: EnhancedDatabaseService, players: list[User]) -> None:
    """After a score changes, the cached leaderboard of every limit shows the new leader."""
    fill(service, players, [3, 2, 1])
    limits = (1, 2, 10, 50, 999)
    for limit in limits:
        service.get_leaderboard(CATEGORY, DAY, limit)
    service.update_leaderboard_entry(players[2].id, CATEGORY, Decimal(9), DAY)
    for limit in limits:
        assert service.get_leaderboard(CATEGORY, DAY, limit)[0].user_id == players[2].id
    service.batch_update_leaderboard(CATEGORY, [LeaderboardUpdate(players[1].id, Decimal(10))], DAY)
    for limit in limits:
        assert service.get_leaderboard(CATEGORY, DAY, limit)[0].user_id == players[1].id


def test_a_change_leaves_other_leaderboards_cached(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """A new score in one category does not invalidate the cached leaderboard of another category."""
    fill(service, players, [1])
    service.update_leaderboard_entry(players[0].id, "total_value", Decimal(1), DAY)
    service.get_leaderboard("total_value", DAY)
    service.update_leaderboard_entry(players[0].id, CATEGORY, Decimal(2), DAY)
    before = service.cache_stats().caches["leaderboard"].misses
    service.get_leaderboard("total_value", DAY)
    assert service.cache_stats().caches["leaderboard"].misses == before


def test_a_renamed_player_shows_on_every_cached_leaderboard(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """After a player is renamed, cached leaderboards of all categories and limits show the new name."""
    fill(service, players, [1])
    service.update_leaderboard_entry(players[0].id, "total_value", Decimal(1), DAY)
    for category in (CATEGORY, "total_value"):
        for limit in (10, 50):
            service.get_leaderboard(category, DAY, limit)
    service.update_user_profile(players[0].id, username="renamed")
    for category in (CATEGORY, "total_value"):
        for limit in (10, 50):
            assert service.get_leaderboard(category, DAY, limit)[0].username == "renamed"


def test_a_cached_leaderboard_is_read_once(service: EnhancedDatabaseService, players: list[User]) -> None:
    """The second read of a leaderboard comes from the cache and runs no statement."""
    fill(service, players, [1])
    first = service.get_leaderboard(CATEGORY, DAY)
    statements: list[str] = []
    service._database.query_hooks.append(lambda event: statements.append(event.sql))
    assert service.get_leaderboard(CATEGORY, DAY) == first
    assert statements == []


def test_a_batch_stores_the_last_score_and_reports_missing_players(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """A batch stores the later of two scores of one player and returns the players that do not exist."""
    nobody = uuid.uuid4()
    result = service.batch_update_leaderboard(
        CATEGORY,
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
    entries = service.get_leaderboard(CATEGORY, DAY)
    assert [(e.score, dict(e.metadata)) for e in entries] == [
        (3, {"strategy": "cash"}),
        (Decimal("2.56"), {}),
    ]


def test_metadata_is_kept_unless_given(service: EnhancedDatabaseService, players: list[User]) -> None:
    """A score update without metadata keeps the stored metadata; with metadata it replaces them."""
    service.update_leaderboard_entry(players[0].id, CATEGORY, Decimal(1), DAY, {"note": "first"})
    entry = service.update_leaderboard_entry(players[0].id, CATEGORY, Decimal(2), DAY)
    assert entry.metadata == {"note": "first"}
    entry = service.update_leaderboard_entry(players[0].id, CATEGORY, Decimal(2), DAY, {"note": "new"})
    assert entry.metadata == {"note": "new"}


@pytest.mark.parametrize(
    ("category", "score", "message"),
    [
        ("c" * 51, 1, "category is"),
        (CATEGORY, math.nan, "score is nan"),
        (CATEGORY, Decimal("Infinity"), "score is"),
        (CATEGORY, 10**13, "score is"),
        (CATEGORY, None, "score is None"),
    ],
)
def test_invalid_scores_and_categories_are_refused(
    service: EnhancedDatabaseService,
    players: list[User],
    execute: Execute,
    category: Any,
    score: Any,
    message: str,
) -> None:
    """An invalid score or category raises InvalidInput and stores no entry, single or in a batch."""
    with pytest.raises(InvalidInput, match=message):
        service.update_leaderboard_entry(players[0].id, category, score, DAY)
    with pytest.raises(InvalidInput, match=message):
        service.batch_update_leaderboard(
            category,
            [LeaderboardUpdate(players[1].id, Decimal(1)), LeaderboardUpdate(players[0].id, score)],
            DAY,
        )
    assert execute("SELECT count(*) FROM leaderboard_entries") == [(0,)]


def test_arguments_out_of_bounds_are_refused(service: EnhancedDatabaseService, players: list[User]) -> None:
    """A limit, offset or radius out of bounds, or a missing session date, raises InvalidInput."""
    for limit in (0, 100_000):
        with pytest.raises(InvalidInput, match="limit is"):
            service.get_leaderboard(CATEGORY, DAY, limit)
    with pytest.raises(InvalidInput, match="offset is -1"):
        service.get_leaderboard(CATEGORY, DAY, offset=-1)
    with pytest.raises(InvalidInput, match="radius is 101"):
        service.get_leaderboard_around(players[0].id, CATEGORY, DAY, radius=101)
    with pytest.raises(InvalidInput, match="session_date is None"):
        service.close_session(None)  # type: ignore[arg-type]  # wrong on purpose


def test_missing_entries_and_missing_users_raise_different_errors(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """Reads raise LeaderboardEntryNotFound for a player without an entry.

    Writes raise UserNotFound for a user who does not exist.
    """
    for call in (service.get_user_rank, service.get_leaderboard_around):
        with pytest.raises(LeaderboardEntryNotFound, match=CATEGORY):
            call(players[0].id, CATEGORY, DAY)
    with pytest.raises(UserNotFound):
        service.update_leaderboard_entry(uuid.uuid4(), CATEGORY, Decimal(1), DAY)
    assert service.get_leaderboard(CATEGORY, DAY) == ()


def test_close_session_stores_the_ranks(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """`close_session` stores the ranks of every category of one day; a second call changes no row."""
    fill(service, players, [5, 3, 3, 1])
    service.update_leaderboard_entry(players[0].id, "total_value", Decimal(1), DAY)
    service.update_leaderboard_entry(players[0].id, CATEGORY, Decimal(1))
    assert service.close_session(DAY) == 5
    ranks = "SELECT category, rank FROM leaderboard_entries WHERE session_date = %s ORDER BY 1, 2"
    expected = [(CATEGORY, 1), (CATEGORY, 2), (CATEGORY, 2), (CATEGORY, 4), ("total_value", 1)]
    assert execute(ranks, (DAY,)) == expected
    assert execute(ranks, (datetime.now(UTC).date(),)) == [(CATEGORY, None)]
    assert service.close_session(DAY) == 5
    assert execute(ranks, (DAY,)) == expected
    assert service.close_session(date(1999, 1, 1)) == 0


def test_categories_of_a_session_are_listed_in_order(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """`list_leaderboard_categories` returns each category of a session once, in alphabetical order."""
    for category in ("total_value", CATEGORY, "quests_completed"):
        for player in players[:2]:
            service.update_leaderboard_entry(player.id, category, Decimal(1), DAY)
    assert service.list_leaderboard_categories(DAY) == (CATEGORY, "quests_completed", "total_value")
    assert service.list_leaderboard_categories(date(1999, 1, 1)) == ()


def test_leaderboard_key_and_ttl(
    service: EnhancedDatabaseService, players: list[User], redis_client: redis.Redis
) -> None:
    """The cache key of a leaderboard is `leaderboard:<category>:<day>:<limit>`, with a TTL up to 120 s."""
    fill(service, players, [1])
    service.get_leaderboard(CATEGORY, DAY)
    assert 100 < redis_client.ttl(f"leaderboard:{CATEGORY}:{DAY}:50") <= 120
