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
    """Return sixty players, half of them named amy and half Bea, with scores in three sessions."""
    names = [f"{('amy', 'Bea')[n % 2]}_{n:02}" for n in range(PLAYERS)]
    users = [service.create_user(username=name) for name in names]
    random = Random(7)
    for day in DAYS:
        scores = [LeaderboardUpdate(user.id, Decimal(random.randrange(-9, 9))) for user in users]
        service.batch_update_leaderboard("returns", scores, day)
    return users


@pytest.fixture
def bucketed(players: list[User], execute: Execute) -> list[User]:
    """Return the players after folding their leaderboards into buckets of seven entries."""
    for day in DAYS:
        execute("SELECT leaderboard_fold(%s, 'returns', 7)", (day,))
    return players


def at(day: date, hour: int) -> datetime:
    """Return the time of an hour of a day in UTC."""
    return datetime.combine(day, time(hour), UTC)


def read_all(service: EnhancedDatabaseService, day: date = DAYS[2]) -> list[LeaderboardEntry]:
    """Return all entries of a leaderboard."""
    return list(service.get_leaderboard("returns", day, 1_000))


def test_a_leaderboard_is_counted_exactly(service: EnhancedDatabaseService, bucketed: list[User]) -> None:
    """`count_leaderboard` is exact, also after a user was deleted and for a prefix in upper or lower case."""
    assert service.count_leaderboard("returns", DAYS[0]) == PLAYERS
    assert service.count_leaderboard("returns", DAYS[0], prefix="bEa") == PLAYERS // 2
    assert service.count_leaderboard("returns", DAYS[0], prefix="amy%") == 0
    service.delete_user(bucketed[1].id)
    assert service.count_leaderboard("returns", DAYS[0]) == PLAYERS - 1
    assert service.count_leaderboard("returns", DAYS[0], prefix="bea") == PLAYERS // 2 - 1
    assert service.count_leaderboard("nothing", DAYS[0]) == 0


@pytest.mark.parametrize("order", ["rank", "-rank", "username", "-username"])
@pytest.mark.parametrize("prefix", ["", "amy", "B"])
def test_ordered_pages_equal_the_sorted_leaderboard(
    service: EnhancedDatabaseService, bucketed: list[User], order: str, prefix: str
) -> None:
    """The pages of `list_leaderboard` equal the sorted matches, ranked among all players."""
    matches = [e for e in read_all(service) if e.username.lower().startswith(prefix.lower())]
    expected = sorted(matches, key=ORDERS[order.lstrip("-")], reverse=order.startswith("-"))
    for offset in range(0, len(expected) + 10, 9):
        page = service.list_leaderboard(
            "returns", DAYS[2], limit=9, offset=offset, order=order, prefix=prefix
        )
        assert list(page) == expected[offset : offset + 9]


def test_a_summary_describes_all_scores(service: EnhancedDatabaseService, bucketed: list[User]) -> None:
    """A summary has best, worst and median score and the number of leaders, and its bins count all scores."""
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


def test_a_summary_ignores_the_callers_decimal_context(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """A summary is exact even if the caller's decimal context has three digits and traps rounding."""
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
    """A cached summary shows a new score and a new username at once; without entries it is None."""
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
def test_bin_edges_are_round_and_contain_all_scores(low: str, high: str, least: str, width: str) -> None:
    """The bin width is 1, 2 or 5 times a power of ten, and the lowest and highest score are in a bin."""
    edges = leaderboard_reports.choose_edges(Decimal(low), Decimal(high), bins=24, least_width=Decimal(least))
    assert edges[1] - edges[0] == Decimal(width)
    assert edges[0] <= Decimal(low) < edges[1]
    assert edges[-2] <= Decimal(high) < edges[-1]
    assert len(edges) <= 25


def test_leaderboard_dates_are_listed_per_category(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """`list_leaderboard_dates` returns the dates with entries of one category, newest first, in pages."""
    service.update_leaderboard_entry(players[0].id, "other", Decimal(1), DAYS[2] + timedelta(days=1))
    assert service.list_leaderboard_dates("returns") == DAYS[::-1]
    assert service.list_leaderboard_dates("returns", limit=2) == (DAYS[2], DAYS[1])
    assert service.list_leaderboard_dates("returns", before=DAYS[1]) == (DAYS[0],)
    assert service.list_leaderboard_dates("nothing") == ()


def test_a_day_whose_entries_were_deleted_is_not_listed(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """After all entries of a day were deleted the day is not listed, although counter rows may remain."""
    execute("DELETE FROM leaderboard_entries WHERE session_date = %s", (DAYS[2],))
    assert service.list_leaderboard_dates("returns") == (DAYS[1], DAYS[0])
    for player in players:
        service.delete_user(player.id)
    assert service.list_leaderboard_dates("returns") == ()


def test_player_scores_equal_those_of_the_leaderboards(
    service: EnhancedDatabaseService, bucketed: list[User]
) -> None:
    """`list_player_scores` returns a row for each player and session with a score, with ranks on request."""
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


def test_player_scores_of_a_closed_session_use_stored_ranks(
    service: EnhancedDatabaseService, players: list[User], execute: Execute
) -> None:
    """For a closed session `list_player_scores` returns the stored rank and does not calculate it again."""
    service.close_session(DAYS[0])
    execute("UPDATE leaderboard_entries SET rank = 77 WHERE user_id = %s", (str(players[0].id),))
    [row] = service.list_player_scores([players[0].id], "returns", [DAYS[0]], ranked=True)
    assert row.rank == 77


def test_a_period_ranks_by_the_sum_of_scores(service: EnhancedDatabaseService, players: list[User]) -> None:
    """A period leaderboard ranks players by the sum of their scores and shows the sum per session."""
    absent = service.create_user(username="carl")
    service.update_leaderboard_entry(absent.id, "returns", Decimal(30), DAYS[1])
    sums: dict[str, Decimal] = {}
    for day in DAYS[:2]:
        for entry in read_all(service, day):
            sums[entry.username] = sums.get(entry.username, Decimal(0)) + entry.score
    period = service.get_period_leaderboard("returns", DAYS[1], sessions=30, limit=1_000)
    assert (period.days, period.players) == ((DAYS[1], DAYS[0]), PLAYERS + 1)
    assert {entry.username: entry.score for entry in period.entries} == {
        name: (total / 2).quantize(Decimal("0.01")) for name, total in sums.items()
    }
    assert [entry.rank for entry in period.entries] == [
        1 + sum(total > sums[entry.username] for total in sums.values()) for entry in period.entries
    ]
    assert next(e.sessions for e in period.entries if e.username == "carl") == 1
    few = service.get_period_leaderboard("returns", DAYS[1], sessions=30, limit=5)
    assert (few.players, few.entries) == (PLAYERS + 1, period.entries[:5])


def test_a_period_before_the_first_session_is_empty(service: EnhancedDatabaseService) -> None:
    """A period leaderboard without sessions has no days, players or entries."""
    period = service.get_period_leaderboard("returns", DAYS[0])
    assert (period.days, period.players, period.entries) == ((), 0, ())


def test_a_stream_has_every_entry_once(
    service: EnhancedDatabaseService, bucketed: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of a leaderboard has every entry once, in order and with ranks, for each batch size."""
    expected = read_all(service)
    for rows in (1, 7, 60, 1_000):
        monkeypatch.setattr(paging, "STREAM_ROWS", rows)
        assert list(service.stream_leaderboard("returns", DAYS[2])) == expected


def test_a_stream_holds_no_connection(service: EnhancedDatabaseService, players: list[User]) -> None:
    """A stream that is not read to its end has no connection checked out."""
    entries = service.stream_leaderboard("returns", DAYS[2])
    assert len(list(islice(entries, 3))) == 3
    assert service.pool_stats().pool_in_use == 0


def test_market_returns_are_the_mean_of_all_symbols(service: EnhancedDatabaseService) -> None:
    """The market return of a day is the mean of all symbols' returns from open (or first price) to close."""
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
def test_invalid_arguments_are_named(
    service: EnhancedDatabaseService, call: Callable[[EnhancedDatabaseService], object], named: str
) -> None:
    """An invalid argument of a report raises InvalidInput with the argument's name and value."""
    with pytest.raises(InvalidInput, match=named):
        call(service)
