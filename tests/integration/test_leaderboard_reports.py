"""Reports on leaderboards: sizes, searches, distributions, histories, periods and exports."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, Inexact, localcontext
from itertools import islice
from random import Random
from typing import Any

import pytest

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.records import LeaderboardEntry, LeaderboardUpdate, Tick, User
from core.service import leaderboard_reports, paging
from tests.conftest import Execute

DAYS = (date(2026, 3, 2), date(2026, 3, 3), date(2026, 3, 4))
PLAYERS = 60
ORDERS: dict[str, Callable[[LeaderboardEntry], Any]] = {
    "rank": lambda entry: (-entry.score, entry.created_at, entry.id),
    "username": lambda entry: entry.username.lower(),
}


@pytest.fixture
def players(service: EnhancedDatabaseService) -> list[User]:
    """Sixty players, half of them called amy and the others Bea, with scores in three sessions."""
    names = [f"{('amy', 'Bea')[n % 2]}_{n:02}" for n in range(PLAYERS)]
    users = [service.create_user(username=name) for name in names]
    random = Random(7)
    for day in DAYS:
        scores = [LeaderboardUpdate(user.id, Decimal(random.randrange(-9, 9))) for user in users]
        service.batch_update_leaderboard("returns", scores, day)
    return users


@pytest.fixture
def bucketed(players: list[User], execute: Execute) -> list[User]:
    """The same players on leaderboards that are counted in buckets of seven."""
    for day in DAYS:
        execute("SELECT leaderboard_fold(%s, 'returns', 7)", (day,))
    return players


def at(day: date, hour: int) -> datetime:
    """Return an hour of a day in UTC."""
    return datetime.combine(day, time(hour), UTC)


def read_all(service: EnhancedDatabaseService, day: date = DAYS[2]) -> list[LeaderboardEntry]:
    """Return a whole leaderboard as pages of the service show it."""
    return list(service.get_leaderboard("returns", day, 1_000))


def test_a_leaderboard_is_counted_exactly(service: EnhancedDatabaseService, bucketed: list[User]) -> None:
    """This holds after a player has left, and for a prefix in any case."""
    assert service.count_leaderboard("returns", DAYS[0]) == PLAYERS
    assert service.count_leaderboard("returns", DAYS[0], prefix="bEa") == PLAYERS // 2
    assert service.count_leaderboard("returns", DAYS[0], prefix="amy%") == 0
    service.delete_user(bucketed[1].id)
    assert service.count_leaderboard("returns", DAYS[0]) == PLAYERS - 1
    assert service.count_leaderboard("returns", DAYS[0], prefix="bea") == PLAYERS // 2 - 1
    assert service.count_leaderboard("nothing", DAYS[0]) == 0


@pytest.mark.parametrize("order", ["rank", "-rank", "username", "-username"])
@pytest.mark.parametrize("prefix", ["", "amy", "B"])
def test_pages_of_an_order_are_the_sorted_leaderboard(
    service: EnhancedDatabaseService, bucketed: list[User], order: str, prefix: str
) -> None:
    """This includes the last short page and pages behind it; ranks are those of the whole leaderboard."""
    matches = [e for e in read_all(service) if e.username.lower().startswith(prefix.lower())]
    expected = sorted(matches, key=ORDERS[order.lstrip("-")], reverse=order.startswith("-"))
    for offset in range(0, len(expected) + 10, 9):
        page = service.list_leaderboard(
            "returns", DAYS[2], limit=9, offset=offset, order=order, prefix=prefix
        )
        assert list(page) == expected[offset : offset + 9]


def test_a_summary_is_that_of_all_scores(service: EnhancedDatabaseService, bucketed: list[User]) -> None:
    """It has best, worst, median, the number of leaders, and each score in its bin."""
    entries = read_all(service)
    summary = service.find_leaderboard_summary("returns", DAYS[2], bins=10)
    assert summary is not None
    scores = [entry.score for entry in entries]
    assert (summary.players, summary.best, summary.worst) == (PLAYERS, scores[0], scores[-1])
    assert summary.median == (scores[29] + scores[30]) / 2
    assert (summary.leader, summary.leaders) == (entries[0].username, scores.count(scores[0]))
    assert len(summary.bins) <= 10
    for item in summary.bins:
        assert item.players == sum(item.low <= score < item.high for score in scores)
    assert sum(item.players for item in summary.bins) == PLAYERS


def test_a_summary_is_exact_whatever_the_callers_decimal_context_is(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """A caller's context with three digits that raises on rounding gives the same figures."""
    service.update_leaderboard_entry(alice.id, "value", Decimal("10250.25"), DAYS[0])
    with localcontext() as context:
        context.prec = 3
        context.traps[Inexact] = True
        service.update_leaderboard_entry(bob.id, "value", Decimal("10260.005"), DAYS[0])
        summary = service.find_leaderboard_summary("value", DAYS[0])
    assert summary is not None
    assert (summary.worst, summary.best) == (Decimal("10250.25"), Decimal("10260.00"))
    assert summary.median == Decimal("10255.125")


def test_a_summary_follows_a_change(service: EnhancedDatabaseService, players: list[User]) -> None:
    """It is cached, and never older than the last change; without entries it is None."""
    assert service.find_leaderboard_summary("luck", DAYS[0]) is None
    service.find_leaderboard_summary("returns", DAYS[0])
    service.update_leaderboard_entry(players[5].id, "returns", Decimal(500), DAYS[0])
    summary = service.find_leaderboard_summary("returns", DAYS[0])
    assert summary is not None
    assert (summary.best, summary.leader, summary.leaders) == (Decimal(500), "Bea_05", 1)
    service.update_user_profile(players[5].id, username="zoe")
    renamed = service.find_leaderboard_summary("returns", DAYS[0])
    assert renamed is not None
    assert renamed.leader == "zoe"


@pytest.mark.parametrize(
    ("low", "high", "least", "width"),
    [
        ("0", "10", "1", "1"),
        ("-3.20", "4.10", "0.01", "0.5"),
        ("5", "5", "0.01", "0.01"),
        ("9012.55", "11870.10", "0.01", "200"),
        ("-0.03", "-0.01", "0.01", "0.01"),
    ],
)
def test_edges_are_round_and_hold_all_scores(low: str, high: str, least: str, width: str) -> None:
    """The width is 1, 2 or 5 times a power of ten, and both ends are in a bin."""
    edges = leaderboard_reports.choose_edges(Decimal(low), Decimal(high), bins=24, least_width=Decimal(least))
    assert edges[1] - edges[0] == Decimal(width)
    assert edges[0] <= Decimal(low) < edges[1]
    assert edges[-2] <= Decimal(high) < edges[-1]
    assert len(edges) <= 25


def test_dates_are_those_with_entries(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """They are dates of the category only, newest first, in pages."""
    service.update_leaderboard_entry(players[0].id, "other", Decimal(1), DAYS[2] + timedelta(days=1))
    assert service.list_leaderboard_dates("returns") == DAYS[::-1]
    assert service.list_leaderboard_dates("returns", limit=2) == (DAYS[2], DAYS[1])
    assert service.list_leaderboard_dates("returns", before=DAYS[1]) == (DAYS[0],)
    assert service.list_leaderboard_dates("nothing") == ()


def test_a_day_without_entries_any_more_is_no_date(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """Its counters may still have rows, whose sum is zero."""
    execute("DELETE FROM leaderboard_entries WHERE session_date = %s", (DAYS[2],))
    assert service.list_leaderboard_dates("returns") == (DAYS[1], DAYS[0])
    for player in players:
        service.delete_user(player.id)
    assert service.list_leaderboard_dates("returns") == ()


def test_scores_of_players_are_those_of_their_leaderboards(
    service: EnhancedDatabaseService, bucketed: list[User]
) -> None:
    """There is a row by player and session, with ranks on request, and none without a score."""
    some = [user.id for user in bucketed[10:13]]
    missing = DAYS[0] - timedelta(days=1)
    found = service.list_player_scores(some, "returns", [missing, *DAYS[:2]], ranked=True)
    expected = {
        (entry.user_id, day): (entry.score, entry.rank)
        for day in DAYS[:2]
        for entry in read_all(service, day)
        if entry.user_id in some
    }
    assert {(row.user_id, row.session_date): (row.score, row.rank) for row in found} == expected
    assert [(row.user_id, row.session_date) for row in found] == sorted(expected)
    assert {row.rank for row in service.list_player_scores(some, "returns", DAYS)} == {None}
    assert service.list_player_scores([], "returns", DAYS) == ()


def test_a_closed_session_answers_with_its_final_ranks(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """They are stored, and are not counted again."""
    service.close_session(DAYS[0])
    execute("UPDATE leaderboard_entries SET rank = 77 WHERE user_id = %s", (str(players[0].id),))
    [row] = service.list_player_scores([players[0].id], "returns", [DAYS[0]], ranked=True)
    assert row.rank == 77


def test_a_period_ranks_by_the_sum_of_its_sessions(
    service: EnhancedDatabaseService, players: list[User]
) -> None:
    """It has mean scores, ranks and players of the sessions up to a date, limited to the best."""
    absent = service.create_user(username="carl")
    service.update_leaderboard_entry(absent.id, "returns", Decimal(30), DAYS[1])
    sums: dict[str, Decimal] = {}
    for day in DAYS[:2]:
        for entry in read_all(service, day):
            sums[entry.username] = sums.get(entry.username, Decimal(0)) + entry.score
    board = service.get_period_leaderboard("returns", DAYS[1], sessions=30, limit=1_000)
    assert (board.days, board.players) == ((DAYS[1], DAYS[0]), PLAYERS + 1)
    assert {entry.username: entry.score for entry in board.entries} == {
        name: (total / 2).quantize(Decimal("0.01")) for name, total in sums.items()
    }
    assert [entry.rank for entry in board.entries] == [
        1 + sum(total > sums[entry.username] for total in sums.values()) for entry in board.entries
    ]
    assert next(e.sessions for e in board.entries if e.username == "carl") == 1
    few = service.get_period_leaderboard("returns", DAYS[1], sessions=30, limit=5)
    assert (few.players, few.entries) == (PLAYERS + 1, board.entries[:5])


def test_a_period_before_the_first_session_is_empty(service: EnhancedDatabaseService) -> None:
    """There are no sessions and no players."""
    board = service.get_period_leaderboard("returns", DAYS[0])
    assert (board.days, board.players, board.entries) == ((), 0, ())


def test_a_stream_has_every_entry_once(
    service: EnhancedDatabaseService, bucketed: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best is first, with ranks for each size of batches; equal scores continue over their ends."""
    expected = read_all(service)
    for rows in (1, 7, 60, 1_000):
        monkeypatch.setattr(paging, "STREAM_ROWS", rows)
        assert list(service.stream_leaderboard("returns", DAYS[2])) == expected


def test_a_stream_holds_no_connection(service: EnhancedDatabaseService, players: list[User]) -> None:
    """A stream that is abandoned leaves no connection checked out."""
    entries = service.stream_leaderboard("returns", DAYS[2])
    assert len(list(islice(entries, 3))) == 3
    assert service.pool_stats().pool_in_use == 0


def test_market_returns_are_the_mean_of_all_symbols(service: EnhancedDatabaseService) -> None:
    """A return is from the day's open or first price to its last; days without prices are left out."""
    day = date(2026, 3, 2)
    service.insert_market_ticks(
        [
            Tick("AAPL", at(day, 9), Decimal(110), open=Decimal(100)),
            Tick("AAPL", at(day, 15), Decimal(120)),
            Tick("IBM", at(day, 9), Decimal(50)),
            Tick("IBM", at(day, 15), Decimal(45)),
            Tick("IBM", at(day + timedelta(days=3), 0), Decimal(60), open=Decimal(40)),
        ]
    )
    found = service.get_market_returns(day, day + timedelta(days=3))
    assert [(row.day, row.percent, row.symbols) for row in found] == [
        (day, Decimal(5), 2),
        (day + timedelta(days=3), Decimal(50), 1),
    ]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda s: s.list_leaderboard("returns", order="luck"), "order is 'luck'"),
        (lambda s: s.list_leaderboard("returns", offset=-1), "offset is -1"),
        (lambda s: s.count_leaderboard("returns", prefix="x" * 51), "prefix is"),
        (lambda s: s.count_leaderboard("no such"), "category is 'no such'"),
        (lambda s: s.find_leaderboard_summary("returns", bins=1), "bins is 1"),
        (lambda s: s.find_leaderboard_summary("returns", least_width=Decimal(0)), "least_width is"),
        (lambda s: s.list_player_scores(["alice"], "returns", DAYS), "user_id is 'alice'"),
        (lambda s: s.list_player_scores([], "returns", [None]), "session_date is None"),
        (lambda s: s.list_player_scores([""] * 0, "returns", ["x"]), "session_date is 'x'"),
        (lambda s: s.get_period_leaderboard("returns", sessions=91), "sessions is 91"),
        (lambda s: s.stream_leaderboard("returns", "today"), "session_date is 'today'"),
        (lambda s: s.get_market_returns(DAYS[1], DAYS[0]), "in order"),
        (lambda s: s.get_market_returns(None, DAYS[0]), "start is None"),
    ],
)
def test_wrong_input_is_named(
    service: EnhancedDatabaseService, call: Callable[[EnhancedDatabaseService], object], named: str
) -> None:
    """The error names the value and the allowed values, and is raised before any statement runs."""
    with pytest.raises(InvalidInput, match=named):
        call(service)
