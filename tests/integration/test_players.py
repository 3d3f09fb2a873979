"""The figures of the players, each compared with a recount in plain Python over all rows."""

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
"""A Thursday, so that the running week has gone by in part."""

TODAY = NOW.date()
DAY = timedelta(days=1)
MONDAY = TODAY - TODAY.weekday() * DAY
UNUSUAL = "unusual rows"
"""People come and go, and some rows are as no game writes them now."""

WORLDS = (*SCENARIOS, UNUSUAL)


def list_rows(execute: Execute, table: str) -> list[dict[str, Any]]:
    """Return all rows of a table."""
    rows: Any = read_table(execute, table).to_dict("records")
    return list(rows)


class World:
    """All rows of a world, by player."""

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
        """Return the day of joining."""
        day: date = user["created_at"].astimezone(UTC).date()
        return day

    def last_seen(self, user: dict[str, Any]) -> date | None:
        """Return the last day on which a player was active or played."""
        days = self.sessions[user["id"]][-1:]
        if user["last_active"] is not None:
            days = [*days, user["last_active"].astimezone(UTC).date()]
        return min(max(days), self.today) if days else None

    def streak(self, user: dict[str, Any]) -> int:
        """Return how many of the last sessions a player played, without a break."""
        played, length = set(self.sessions[user["id"]]), 0
        for day in self.held:
            if day in played:
                length += 1
            elif day != self.today:
                break
        return length

    def window(self, first: date, last: date) -> PlayerWindow:
        """Return the counts of a window."""

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


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, service: EnhancedDatabaseService, execute: Execute) -> World:
    """A world in the database, and all its rows."""
    service._clock = lambda: NOW
    name = request.param
    write_scenario(service, "players come and go" if name == UNUSUAL else name, NOW)
    if name == UNUSUAL:
        # nobody noted when these were there; this one plays more often than noted; this one plays tomorrow
        execute("UPDATE users SET last_active = NULL WHERE username IN ('bob', 'charlie', 'ken')")
        execute("UPDATE users SET last_active = %s WHERE username = 'judy'", (NOW - 300 * DAY,))
        execute("UPDATE users SET last_active = %s WHERE username = 'lea'", (NOW - 200 * DAY,))
        execute("UPDATE users SET last_active = %s WHERE username = 'erin'", (NOW + DAY,))
        execute(
            "INSERT INTO portfolios (user_id, session_date)"
            " SELECT id, %s::date + age FROM users, unnest(ARRAY[1, -100, -68, -400]) age"
            " WHERE username IN ('ken', 'heidi') AND NOT (username = 'ken' AND age = 1)",
            (TODAY,),
        )
        execute("UPDATE users SET created_at = %s WHERE username = 'ivan'", (NOW - 500 * DAY,))
    return World(execute)


def test_players_by_the_day_they_were_seen_last(service: EnhancedDatabaseService, world: World) -> None:
    """Active on that day or played its session, whichever is later."""
    report = service.get_player_report()
    seen = Counter(map(world.last_seen, world.users))
    oldest = TODAY - 90 * DAY
    days = sorted((day for day in seen if day and day >= oldest), reverse=True)
    assert report.last_seen == tuple(LastSeen(day, seen[day]) for day in days)
    assert report.seen_earlier == sum(players for day, players in seen.items() if day and day < oldest)
    assert report.never_seen == seen[None]
    assert (report.today, report.players) == (TODAY, len(world.users))


def test_who_was_seen_is_counted_alike_everywhere(service: EnhancedDatabaseService, world: World) -> None:
    """The report and the number that other pages show agree for each window."""
    report = service.get_player_report()
    for days in (1, 7, 30, queries.DAYS_REPORTED):
        first = world.today - (days - 1) * DAY
        seen = sum(row.players for row in report.last_seen if row.day >= first)
        assert SeenPlayers(seen, report.players) == service.get_seen_players(days=days)


def test_windows_count_who_played_joined_and_returned(service: EnhancedDatabaseService, world: World) -> None:
    """Windows of calendar days, those with today and the finished ones before it."""
    ends = ((0, 1), (1, 7), (8, 7), (1, 30), (31, 30))
    wanted = [world.window(TODAY - (end + days - 1) * DAY, TODAY - end * DAY) for end, days in ends]
    assert list(service.get_player_report().windows) == wanted


def test_a_streak_is_of_sessions_that_were_held(service: EnhancedDatabaseService, world: World) -> None:
    """Days without any session do not end it, nor one of today not played yet; counted up to 30."""
    streaks = Counter(min(world.streak(user), 30) for user in world.users)
    wanted = tuple(Streak(length, streaks[length]) for length in sorted(streaks) if length)
    assert service.get_player_report().streaks == wanted


def test_cohorts_by_week_of_joining(service: EnhancedDatabaseService, world: World) -> None:
    """How many of those who joined in a week played in each week since; None without a session."""
    for weeks in (1, 6, 13):
        assert service.get_player_report(weeks=weeks).cohorts == count_cohorts(world, weeks)


def count_cohorts(world: World, weeks: int) -> tuple[Cohort, ...]:
    """Return the cohorts of the last weeks."""
    cohorts: dict[date, list[Any]] = defaultdict(list)
    for user in world.users:
        joined = world.joined(user)
        cohorts[joined - joined.weekday() * DAY].append(user["id"])
    held = {day - day.weekday() * DAY for day in world.held}
    wanted = []
    for week in sorted(cohorts):
        if week <= MONDAY - 7 * weeks * DAY:
            continue
        since = [week + 7 * n * DAY for n in range((MONDAY - week).days // 7 + 1)]
        played = [
            sum(any(0 <= (day - begin).days < 7 for day in world.sessions[id_]) for id_ in cohorts[week])
            for begin in since
        ]
        shown = tuple(count if begin in held else None for count, begin in zip(played, since, strict=True))
        wanted.append(Cohort(week, len(cohorts[week]), shown))
    return tuple(wanted)


def test_each_day_counts_its_players(service: EnhancedDatabaseService, world: World) -> None:
    """Who played, traded and joined; a day without a session is there with zeros."""
    traded = {(row["user_id"], row["session_date"]) for row in world.rows["trades"]}
    for days in (1, 30, 90):
        found = service.list_player_days(days=days)
        assert [row.day for row in found] == [TODAY - age * DAY for age in range(days - 1, -1, -1)]
        for row in found:
            assert row.played == sum(row.day in played for played in world.sessions.values())
            assert row.traded == sum(day == row.day for _, day in traded)
            assert row.joined == sum(world.joined(user) == row.day for user in world.users)


def expect_silent(world: World, user: dict[str, Any]) -> SilentPlayer:
    """Return what a player did last, from all rows."""
    days, seen = world.sessions[user["id"]], world.last_seen(user)
    assert seen is not None
    last = days[-1] if days else None
    board = {
        row["user_id"]: row
        for row in world.entries
        if row["session_date"] == last and row["category"] == "daily_returns"
    }
    entry = board.get(user["id"])
    quests = [row for row in world.rows["quests"] if row["user_id"] == user["id"]]
    quest: Any = max(quests, key=lambda row: (row["created_at"], row["id"]), default=None)
    is_over = quest and quest["status"] == "ACTIVE" and quest["expires_at"] and quest["expires_at"] <= NOW
    portfolios = world.rows["portfolios"]
    return SilentPlayer(
        user_id=user["id"],
        username=user["username"],
        joined_at=user["created_at"],
        last_active=user["last_active"],
        last_session=last,
        days_silent=(TODAY - seen).days,
        sessions=len(days),
        rank=1 + sum(row["score"] > entry["score"] for row in board.values()) if entry else None,
        ranked=len(board) if entry else None,
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
    """Return the players in an order of the service."""
    if order == "username":
        return sorted(found, key=lambda player: player.username)
    never = datetime.min.replace(tzinfo=UTC)
    found = sorted(found, key=lambda player: player.user_id)
    found.sort(key=lambda player: player.last_active or never, reverse=True)
    return found[::-1] if order.startswith("-") else found


def test_silent_players_with_what_they_did_last(service: EnhancedDatabaseService, world: World) -> None:
    """Those who were seen once and not since, in every order, on pages of two and as a stream."""
    seen = {user["id"]: world.last_seen(user) for user in world.users}
    expected = {user["id"]: expect_silent(world, user) for user in world.users if seen[user["id"]]}
    for days, order in product((1, 2, 8, 30), queries.ORDERS):
        wanted = sort_silent([row for row in expected.values() if row.days_silent >= days], order)
        assert list(service.stream_silent_players(days=days, order=order)) == wanted
        assert list(list_pages(service, days=days, order=order)) == wanted
        assert service.count_silent_players(days=days) == len(wanted)


def list_pages(service: EnhancedDatabaseService, **filters: Any) -> Iterator[SilentPlayer]:
    """Yield players page by page."""
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


def test_filters_narrow_the_silent_players(service: EnhancedDatabaseService, world: World) -> None:
    """Least number of sessions, week of joining, beginning of the username in any case."""
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
            assert list(list_pages(service, days=2, order=order, **filters)) == sort_silent(wanted, order)
        assert service.count_silent_players(days=2, **filters) == len(wanted)


def test_a_stored_rank_and_a_counted_one_are_the_same(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Closing a session changes nothing on the list."""
    service._clock = lambda: NOW
    write_scenario(service, "players come and go", NOW)
    before = list(service.stream_silent_players(days=1))
    for day in service.list_session_dates():
        service.close_session(day)
    assert list(service.stream_silent_players(days=1)) == before
    assert any(player.rank for player in before)
    assert execute("SELECT count(*) FROM leaderboard_entries WHERE rank IS NULL") == [(0,)]


def test_many_players_of_one_time_are_paged_without_loss(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """A replay stores the same time for all who played a session."""
    service._clock = lambda: NOW
    for moment in (NOW - 40 * DAY, None):
        for number in range(7):
            execute(
                "INSERT INTO users (id, username, last_active) VALUES (%s, %s, %s)",
                (str(new_id()), f"p{number}{moment is None}", moment),
            )
    execute("INSERT INTO portfolios (user_id, session_date) SELECT id, %s FROM users", (TODAY - 50 * DAY,))
    for order in queries.ORDERS:
        names = [player.username for player in list_pages(service, order=order)]
        assert len(names) == len(set(names)) == 14


def test_an_answer_stays_for_its_time_to_live(service: EnhancedDatabaseService, execute: Execute) -> None:
    """A report and a day are cached; the list of silent players is not."""
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
def test_wrong_arguments_are_refused(
    service: EnhancedDatabaseService, call: str, argument: dict[str, Any]
) -> None:
    """Before any statement runs; the message names the value and what is allowed."""
    with pytest.raises(InvalidInput, match=f"{next(iter(argument))} is .*give"):
        getattr(service, call)(**argument)
