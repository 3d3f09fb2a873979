"""Statistics of players in every scenario of tests/scenarios.py, compared with a recount in plain Python."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise, product
from typing import Any

import pytest

from core import EnhancedDatabaseService
from core.errors import InvalidInput
from core.queries import players as queries
from core.records import Cohort, LastSeen, PlayerWindow, SeenPlayers, SilentPlayer, Streak
from core.service.writes import new_id
from tests.conftest import Execute
from tests.scenarios import SCENARIOS, read_table, write_scenario

NOW = datetime(2026, 3, 12, 15, 30, tzinfo=UTC)
"""A Thursday, so that a part of the current week is over."""

TODAY = NOW.date()
DAY = timedelta(days=1)
MONDAY = TODAY - TODAY.weekday() * DAY
UNUSUAL = "unusual rows"
"""The scenario "players come and go" with changes that the game itself does not write."""

ALL_SCENARIOS = (*SCENARIOS, UNUSUAL)


def list_rows(execute: Execute, table: str) -> list[dict[str, Any]]:
    """Return all rows of a table."""
    rows: Any = read_table(execute, table).to_dict("records")
    return list(rows)


class Recount:
    """Recounts statistics of players from all rows of the database."""

    def __init__(self, execute: Execute, today: date = TODAY) -> None:
        self.today = today
        self.users: list[dict[str, Any]] = list_rows(execute, "users")
        self.rows = {name: list_rows(execute, name) for name in ("portfolios", "trades", "quests")}
        self.entries = list_rows(execute, "leaderboard_entries")
        self.sessions: dict[Any, list[date]] = defaultdict(list)
        for row in self.rows["portfolios"]:
            if row["session_date"] <= today:
                self.sessions[row["user_id"]].append(row["session_date"])
        for days in self.sessions.values():
            days.sort()
        self.held = sorted({day for days in self.sessions.values() for day in days}, reverse=True)

    def joined(self, user: dict[str, Any]) -> date:
        """Return the UTC day on which a user joined."""
        day: date = user["created_at"].astimezone(UTC).date()
        return day

    def last_seen(self, user: dict[str, Any]) -> date | None:
        """Return the last day on which a user was active or played, at most today; None if never."""
        days = self.sessions[user["id"]][-1:]
        if user["last_active"] is not None:
            days = [*days, user["last_active"].astimezone(UTC).date()]
        return min(max(days), self.today) if days else None

    def streak(self, user: dict[str, Any]) -> int:
        """Return how many of the newest sessions a user played without a gap; today's may be missing."""
        played, length = set(self.sessions[user["id"]]), 0
        for day in self.held:
            if day in played:
                length += 1
            elif day != self.today:
                break
        return length

    def window(self, first: date, last: date) -> PlayerWindow:
        """Return how many users played, joined and returned in a window of days."""

        def is_in(day: date) -> bool:
            return first <= day <= last

        returned = 0
        for days in self.sessions.values():
            returned += any(is_in(day) and (day - before).days > 7 for before, day in pairwise(days))
        return PlayerWindow(
            first,
            last,
            sum(any(map(is_in, days)) for days in self.sessions.values()),
            sum(is_in(self.joined(user)) for user in self.users),
            returned,
        )


@pytest.fixture(params=ALL_SCENARIOS)
def recount(request: pytest.FixtureRequest, service: EnhancedDatabaseService, execute: Execute) -> Recount:
    """Write a scenario and return its `Recount`."""
    service._clock = lambda: NOW
    name = request.param
    write_scenario(service, "players come and go" if name == UNUSUAL else name, NOW)
    if name == UNUSUAL:
        # players without a last activity
        execute("UPDATE users SET last_active = NULL WHERE username IN ('bob', 'charlie', 'ken')")
        # a last activity before the player's newest session
        execute("UPDATE users SET last_active = %s WHERE username = 'judy'", (NOW - 300 * DAY,))
        # an old activity of a player without sessions
        execute("UPDATE users SET last_active = %s WHERE username = 'lea'", (NOW - 200 * DAY,))
        # an activity of tomorrow
        execute("UPDATE users SET last_active = %s WHERE username = 'erin'", (NOW + DAY,))
        # older sessions than those of the scenario, and one of tomorrow
        execute(
            "INSERT INTO portfolios (user_id, session_date)"
            " SELECT id, %s::date + age FROM users, unnest(ARRAY[1, -100, -68, -400]) age"
            " WHERE username IN ('ken', 'heidi') AND NOT (username = 'ken' AND age = 1)",
            (TODAY,),
        )
        # a player who joined before the weeks of the report
        execute("UPDATE users SET created_at = %s WHERE username = 'ivan'", (NOW - 500 * DAY,))
    return Recount(execute)


def test_players_are_counted_by_the_day_last_seen(service: EnhancedDatabaseService, recount: Recount) -> None:
    """The report counts players by the later of their last activity and their newest session, for 90 days."""
    report = service.get_player_report()
    seen = Counter(map(recount.last_seen, recount.users))
    oldest = TODAY - 90 * DAY
    days = sorted((day for day in seen if day and day >= oldest), reverse=True)
    assert report.last_seen == tuple(LastSeen(day, seen[day]) for day in days)
    assert report.seen_earlier == sum(players for day, players in seen.items() if day and day < oldest)
    assert report.never_seen == seen[None]
    assert (report.today, report.players) == (TODAY, len(recount.users))


def test_seen_players_equal_those_of_the_report(service: EnhancedDatabaseService, recount: Recount) -> None:
    """For windows of 1 to 91 days, get_seen_players and get_player_report count the same players."""
    report = service.get_player_report()
    for days in (1, 7, 30, queries.DAYS_REPORTED):
        first = recount.today - (days - 1) * DAY
        seen = sum(row.players for row in report.last_seen if row.day >= first)
        assert SeenPlayers(seen, report.players) == service.get_seen_players(days=days)


def test_windows_count_played_joined_and_returned(service: EnhancedDatabaseService, recount: Recount) -> None:
    """The report has five windows: today, and the last and the previous 7 and 30 finished days."""
    ends = ((0, 1), (1, 7), (8, 7), (1, 30), (31, 30))
    wanted = [recount.window(TODAY - (end + days - 1) * DAY, TODAY - end * DAY) for end, days in ends]
    assert list(service.get_player_report().windows) == wanted


def test_a_streak_counts_consecutive_sessions(service: EnhancedDatabaseService, recount: Recount) -> None:
    """A streak ends with a missed session before today's. Streaks over 30 are counted as 30."""
    streaks = Counter(min(recount.streak(user), 30) for user in recount.users)
    wanted = tuple(Streak(length, streaks[length]) for length in sorted(streaks) if length)
    assert service.get_player_report().streaks == wanted


def test_cohorts_are_players_who_joined_in_one_week(
    service: EnhancedDatabaseService, recount: Recount
) -> None:
    """A cohort has, for each week, the number of its players who played; None for a week without sessions."""
    for weeks in (1, 6, 13):
        assert service.get_player_report(weeks=weeks).cohorts == count_cohorts(recount, weeks)


def count_cohorts(recount: Recount, weeks: int) -> tuple[Cohort, ...]:
    """Return the cohorts of the last `weeks` weeks, recounted from the rows."""
    cohorts: dict[date, list[Any]] = defaultdict(list)
    for user in recount.users:
        joined = recount.joined(user)
        cohorts[joined - joined.weekday() * DAY].append(user["id"])
    held = {day - day.weekday() * DAY for day in recount.held}
    wanted = []
    for week in sorted(cohorts):
        if week <= MONDAY - 7 * weeks * DAY:
            continue
        since = [week + 7 * n * DAY for n in range((MONDAY - week).days // 7 + 1)]
        played = [
            sum(any(0 <= (day - begin).days < 7 for day in recount.sessions[id_]) for id_ in cohorts[week])
            for begin in since
        ]
        shown = tuple(count if begin in held else None for count, begin in zip(played, since, strict=True))
        wanted.append(Cohort(week, len(cohorts[week]), shown))
    return tuple(wanted)


def test_each_day_counts_its_players(service: EnhancedDatabaseService, recount: Recount) -> None:
    """Every day has the number of players who played, traded and joined, also a day without a session."""
    traded = {(row["user_id"], row["session_date"]) for row in recount.rows["trades"]}
    for days in (1, 30, 90):
        found = service.list_player_days(days=days)
        assert [row.day for row in found] == [TODAY - age * DAY for age in range(days - 1, -1, -1)]
        for row in found:
            assert row.played == sum(row.day in played for played in recount.sessions.values())
            assert row.traded == sum(day == row.day for _, day in traded)
            assert row.joined == sum(recount.joined(user) == row.day for user in recount.users)


def build_silent_player(recount: Recount, user: dict[str, Any]) -> SilentPlayer:
    """Return the entry that a user must have in the list of silent players, recomputed from all rows."""
    days, seen = recount.sessions[user["id"]], recount.last_seen(user)
    assert seen is not None
    last = days[-1] if days else None
    leaderboard = {
        row["user_id"]: row
        for row in recount.entries
        if row["session_date"] == last and row["category"] == "daily_returns"
    }
    entry = leaderboard.get(user["id"])
    quests = [row for row in recount.rows["quests"] if row["user_id"] == user["id"]]
    quest: Any = max(quests, key=lambda row: (row["created_at"], row["id"]), default=None)
    is_over = quest and quest["status"] == "ACTIVE" and quest["expires_at"] and quest["expires_at"] <= NOW
    portfolios = recount.rows["portfolios"]
    return SilentPlayer(
        user_id=user["id"],
        username=user["username"],
        joined_at=user["created_at"],
        last_active=user["last_active"],
        last_session=last,
        days_silent=(TODAY - seen).days,
        sessions=len(days),
        rank=1 + sum(row["score"] > entry["score"] for row in leaderboard.values()) if entry else None,
        ranked=len(leaderboard) if entry else None,
        return_percent=next(
            (
                row["day_change_percent"]
                for row in portfolios
                if (row["user_id"], row["session_date"]) == (user["id"], last)
            ),
            None,
        ),
        quest_title=quest and quest["title"],
        quest_status="EXPIRED" if is_over else quest and quest["status"],
    )


def sort_silent(found: list[SilentPlayer], order: str) -> list[SilentPlayer]:
    """Return the players sorted in one of the service's orders."""
    if order == "username":
        return sorted(found, key=lambda player: player.username)
    never = datetime.min.replace(tzinfo=UTC)
    found = sorted(found, key=lambda player: player.user_id)
    found.sort(key=lambda player: player.last_active or never, reverse=True)
    return found[::-1] if order.startswith("-") else found


def test_silent_players_have_their_last_activity(service: EnhancedDatabaseService, recount: Recount) -> None:
    """In each order, the pages and the stream return the players not seen for at least `days` days."""
    seen = {user["id"]: recount.last_seen(user) for user in recount.users}
    expected = {user["id"]: build_silent_player(recount, user) for user in recount.users if seen[user["id"]]}
    for days, order in product((1, 2, 8, 30), queries.ORDERS):
        wanted = sort_silent([row for row in expected.values() if row.days_silent >= days], order)
        assert list(service.stream_silent_players(days=days, order=order)) == wanted
        assert list(read_pages(service, days=days, order=order)) == wanted
        assert service.count_silent_players(days=days) == len(wanted)


def read_pages(service: EnhancedDatabaseService, **filters: Any) -> Iterator[SilentPlayer]:
    """Yield the silent players, read in pages of two."""
    last = None
    while page := service.list_silent_players(**filters, limit=2, after=last):
        yield from page
        last = page[-1]


FILTERS: tuple[dict[str, Any], ...] = (
    {"sessions": 3},
    {"prefix": "C"},
    {"joined": MONDAY - 28 * DAY},
    {"sessions": 1, "joined": MONDAY - 42 * DAY, "prefix": "d"},
)


def test_filters_apply_to_silent_players(service: EnhancedDatabaseService, recount: Recount) -> None:
    """The list can be filtered by sessions, week of joining and username prefix; the prefix ignores case."""
    everyone = list(service.stream_silent_players(days=2))
    for filters in FILTERS:
        week = filters.get("joined")
        wanted = [
            player
            for player in everyone
            if player.sessions >= filters.get("sessions", 0)
            and player.username.startswith(filters.get("prefix", "").lower())
            and (week is None or 0 <= (player.joined_at.date() - week).days < 7)
        ]
        for order in queries.ORDERS:
            assert list(read_pages(service, days=2, order=order, **filters)) == sort_silent(wanted, order)
        assert service.count_silent_players(days=2, **filters) == len(wanted)


def test_stored_and_computed_ranks_are_equal(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Closing a session stores ranks; the list of silent players shows the same ranks before and after."""
    service._clock = lambda: NOW
    write_scenario(service, "players come and go", NOW)
    before = list(service.stream_silent_players(days=1))
    for day in service.list_session_dates():
        service.close_session(day)
    assert list(service.stream_silent_players(days=1)) == before
    assert any(player.rank for player in before)
    assert execute("SELECT count(*) FROM leaderboard_entries WHERE rank IS NULL") == [(0,)]


def test_players_with_equal_times_are_paged_without_loss(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Pages return every player once, although seven have the same last_active and seven have none."""
    service._clock = lambda: NOW
    for moment in (NOW - 40 * DAY, None):
        for number in range(7):
            execute(
                "INSERT INTO users (id, username, last_active) VALUES (%s, %s, %s)",
                (str(new_id()), f"p{number}{moment is None}", moment),
            )
    execute("INSERT INTO portfolios (user_id, session_date) SELECT id, %s FROM users", (TODAY - 50 * DAY,))
    for order in queries.ORDERS:
        names = [player.username for player in read_pages(service, order=order)]
        assert len(names) == len(set(names)) == 14


def test_reports_are_cached_and_lists_are_not(service: EnhancedDatabaseService, execute: Execute) -> None:
    """After all users are deleted, get_player_report and list_player_days still return the cached result."""
    service._clock = lambda: NOW
    write_scenario(service, "one player", NOW)
    report, days = service.get_player_report(), service.list_player_days()
    execute("DELETE FROM users")
    assert (service.get_player_report(), service.list_player_days()) == (report, days)
    assert service.list_silent_players(days=1) == ()


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        ("get_player_report", {"weeks": 14}),
        ("list_player_days", {"days": 0}),
        ("list_silent_players", {"days": 0}),
        ("list_silent_players", {"sessions": -1}),
        ("list_silent_players", {"joined": TODAY}),
        ("list_silent_players", {"order": "rank"}),
        ("list_silent_players", {"after": Decimal(1)}),
        ("count_silent_players", {"prefix": None}),
    ],
)
def test_invalid_arguments_are_refused(
    service: EnhancedDatabaseService, call: str, argument: dict[str, Any]
) -> None:
    """The error names the argument and what is allowed."""
    with pytest.raises(InvalidInput, match=f"{next(iter(argument))} is .*give"):
        getattr(service, call)(**argument)
