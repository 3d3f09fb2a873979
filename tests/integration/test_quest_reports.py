"""Reports on quests, in every scenario of tests/scenarios.py, compared with a recount of the rows."""

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import pytest

from core import EnhancedDatabaseService
from core.records import Quest, QuestOutcome
from tests.conftest import Execute
from tests.scenarios import SCENARIOS, read_table, write_scenario

NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
TODAY = NOW.date()
WINDOWS = [
    (None, None),
    (TODAY - timedelta(days=6), None),
    (TODAY - timedelta(days=40), TODAY - timedelta(days=9)),
    (None, TODAY - timedelta(days=20)),
]

Row = dict[str, Any]


@pytest.fixture(params=SCENARIOS)
def filled_service(
    request: pytest.FixtureRequest, service: EnhancedDatabaseService
) -> EnhancedDatabaseService:
    """Write a scenario as of NOW and return the service."""
    service._clock = lambda: NOW
    write_scenario(service, request.param, NOW)
    return service


def read_rows(execute: Execute, table: str) -> list[Row]:
    """Return all rows of a table as dicts."""
    frame = read_table(execute, table)
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def is_running(quest: Row, now: datetime = NOW) -> bool:
    """Return whether a quest can still be completed."""
    return quest["status"] == "ACTIVE" and (quest["expires_at"] is None or quest["expires_at"] > now)


def find_end(quest: Row) -> datetime | None:
    """Return when a quest ended, or None if unknown; an expired quest ends 1 µs before its deadline."""
    if quest["status"] == "COMPLETED":
        completed: datetime | None = quest["completed_at"]
        return completed
    return None if quest["expires_at"] is None else quest["expires_at"] - timedelta(microseconds=1)


def is_within(moment: datetime | None, since: date | None, until: date | None) -> bool:
    """Return whether a moment is in a window of UTC days; None is only in a window without a start."""
    if moment is None:
        return since is None
    return (since or date.min) <= moment.astimezone(UTC).date() <= (until or date.max)


def build_quest(
    user_id: UUID,
    created_at: datetime,
    expires_at: datetime | None,
    *,
    progress: int = 0,
    status: str = "ACTIVE",
    completed_at: datetime | None = None,
) -> Quest:
    """Return a quest with a target of 10."""
    return Quest(
        id=uuid4(),
        user_id=user_id,
        type="WINS",
        title="Win ten times",
        description=None,
        target_value=Decimal(10),
        current_progress=Decimal(progress),
        status=status,
        reward_type="cash",
        reward_value=Decimal(50),
        created_at=created_at,
        expires_at=expires_at,
        completed_at=completed_at,
    )


def recount_outcomes(
    execute: Execute, since: date | None, until: date | None, now: datetime = NOW
) -> set[QuestOutcome]:
    """Return the outcomes of the quests that ended in a window, counted from the rows."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for quest in read_rows(execute, "quests"):
        end = find_end(quest)
        if not is_running(quest, now) and is_within(end, since, until):
            day = None if end is None else end.astimezone(UTC).date()
            week = None if day is None else day - timedelta(days=day.weekday())
            groups[week, quest["type"], quest["reward_type"]].append(quest)
    expected = set()
    for (week, kind, reward), quests in groups.items():
        done = [quest for quest in quests if quest["status"] == "COMPLETED"]
        share = [quest["current_progress"] / quest["target_value"] for quest in quests if quest not in done]
        expected.add(
            QuestOutcome(
                week,
                kind,
                reward,
                len(quests),
                len(done) + sum(part > 0 for part in share),
                len(done) + sum(part >= Decimal("0.5") for part in share),
                len(done),
                sum((quest["reward_value"] or Decimal(0) for quest in done), Decimal(0)),
            )
        )
    return expected


@pytest.mark.parametrize(("since", "until"), WINDOWS)
def test_outcomes_count_quests_that_ended(
    filled_service: EnhancedDatabaseService, execute: Execute, since: date | None, until: date | None
) -> None:
    """Outcomes are grouped by week, type and kind of reward; running quests are not counted."""
    found = filled_service.list_quest_outcomes(since=since, until=until)
    assert set(found) == (expected := recount_outcomes(execute, since, until))
    assert len(found) == len(expected)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_outcomes_follow_changes_of_old_quests(
    service: EnhancedDatabaseService, execute: Execute, scenario: str
) -> None:
    """Outcomes of old weeks follow a late import, an update, a deleted user, and the passing of a day."""
    service._clock = lambda: NOW
    write_scenario(service, scenario, NOW)
    [owner, *others] = service.list_users() or [service.create_user(username="alice")]

    def assert_recounted(moment: datetime = NOW) -> None:
        service.invalidate_reports()
        for since, until in WINDOWS:
            found = service.list_quest_outcomes(since=since, until=until)
            assert set(found) == recount_outcomes(execute, since, until, moment)
        assert sum(row.given for row in service.get_quest_totals()) == len(read_rows(execute, "quests"))

    late = NOW - timedelta(days=150)
    service.load_quests([build_quest(owner.id, late, late + timedelta(days=3), progress=7)])
    assert_recounted()
    earlier = (f"{name} = {name} - interval '9 days'" for name in ("created_at", "expires_at"))
    execute(f"UPDATE quests SET {', '.join(earlier)}")
    execute("UPDATE quests SET status = 'COMPLETED' WHERE status = 'EXPIRED' AND current_progress > 0")
    assert_recounted()
    service.delete_user((others or [owner])[0].id)
    assert_recounted()
    tomorrow = NOW + timedelta(hours=20)
    service._clock = lambda: tomorrow
    assert_recounted(tomorrow)
    assert service.expire_quests() >= 0
    assert_recounted(tomorrow)


@pytest.mark.parametrize("status", ["ACTIVE", "EXPIRED"])
def test_a_quest_that_ends_on_monday_counts_for_the_week_before(
    service: EnhancedDatabaseService, status: str
) -> None:
    """A quest that expires on Monday at 00:00 counts for the week before, also while still marked ACTIVE."""
    monday = TODAY - timedelta(days=TODAY.weekday())
    deadline = datetime.combine(monday, time(), UTC)
    service._clock = lambda: NOW
    alice = service.create_user(username="alice")
    service.load_quests([build_quest(alice.id, deadline - timedelta(days=7), deadline, status=status)])
    week_before = monday - timedelta(days=7)
    for since, until in ((None, None), (week_before, None), (week_before, monday - timedelta(days=1))):
        [outcome] = service.list_quest_outcomes(since=since, until=until)
        assert (outcome.week, outcome.ended, outcome.completed) == (week_before, 1, 0)
    assert service.list_quest_outcomes(since=monday) == ()


@pytest.mark.parametrize(("since", "until"), WINDOWS)
def test_times_to_complete_are_medians(
    filled_service: EnhancedDatabaseService, execute: Execute, since: date | None, until: date | None
) -> None:
    """The medians are those of all quests and of each title; quests without completed_at are left out."""
    titles: dict[tuple[str, str], list[float]] = defaultdict(list)
    for quest in read_rows(execute, "quests"):
        done = quest["completed_at"]
        if done is not None and is_within(done, since, until):
            titles[quest["type"], quest["title"]].append((done - quest["created_at"]).total_seconds())
    found = filled_service.get_completion_times(since=since, until=until)
    everything = [seconds for times in titles.values() for seconds in times]
    assert found.completed == len(everything)
    assert found.median == (timedelta(seconds=median(everything)) if everything else None)
    assert {(item.type, item.title): (item.completed, item.median) for item in found.titles} == {
        key: (len(times), timedelta(seconds=median(times))) for key, times in titles.items()
    }
    assert [item.median for item in found.titles] == sorted(
        (item.median for item in found.titles), reverse=True
    )
    for kind in {kind for kind, _ in titles}:
        of_type = filled_service.get_completion_times(since=since, until=until, type=kind)
        assert of_type.completed == sum(len(times) for (other, _), times in titles.items() if other == kind)


@pytest.mark.parametrize(("since", "until"), WINDOWS)
def test_returns_compare_sessions_of_the_same_days(
    filled_service: EnhancedDatabaseService, execute: Execute, since: date | None, until: date | None
) -> None:
    """The report counts sessions, with and without a quest, after which the player returned within 7 days."""
    played = {(row["user_id"], row["session_date"]) for row in read_rows(execute, "portfolios")}
    quests = read_rows(execute, "quests")
    last = min(until or TODAY, TODAY - timedelta(days=8))
    sessions = [key for key in played if (since or date.min) <= key[1] <= last]

    def has_returned(user: object, day: date) -> bool:
        return any((user, day + timedelta(days=age)) in played for age in range(1, 8))

    def has_quest(user: object, day: date, kind: str) -> bool:
        for quest in quests:
            end = quest["expires_at"] or quest["completed_at"]
            is_unknown = end is None and quest["status"] != "ACTIVE"
            if (quest["user_id"], quest["type"]) == (user, kind) and not is_unknown:
                starts_before = quest["created_at"].astimezone(UTC).date() <= day
                if starts_before and (end is None or end > datetime.combine(day, time(), UTC)):
                    return True
        return False

    expected = {}
    for kind in {quest["type"] for quest in quests}:
        holding = {key for key in sessions if has_quest(*key, kind)}
        days = {day for _, day in holding}
        others = {key for key in sessions if key[1] in days} - holding
        if holding:
            expected[kind] = (
                len(holding),
                sum(has_returned(*key) for key in holding),
                len(others),
                sum(has_returned(*key) for key in others),
            )
    found = filled_service.get_quest_returns(since=since, until=until)
    assert {
        item.type: (item.sessions_with, item.returned_with, item.sessions_without, item.returned_without)
        for item in found
    } == expected


def test_stuck_quests_have_a_reason(filled_service: EnhancedDatabaseService, execute: Execute) -> None:
    """A quest past half of its time is stuck if its progress is zero or slow, or its player stays away."""
    users = {row["id"]: row for row in read_rows(execute, "users")}
    seen_day = TODAY - timedelta(days=6)
    recent = {row["user_id"] for row in read_rows(execute, "portfolios") if row["session_date"] >= seen_day}
    expected = {}
    for quest in filter(is_running, read_rows(execute, "quests")):
        end, last_active = quest["expires_at"], users[quest["user_id"]]["last_active"]
        age, life = NOW - quest["created_at"], None if end is None else end - quest["created_at"]
        if age < (timedelta(days=7) if life is None else life / 2):
            continue
        if end is not None and end - NOW <= timedelta(hours=24):
            continue
        done = quest["current_progress"] / quest["target_value"]
        is_behind = life is not None and 0 < float(done) < age / life / 2
        was_active = last_active is not None and last_active.astimezone(UTC).date() >= seen_day
        is_unseen = not was_active and quest["user_id"] not in recent
        if done == 0 or is_behind or is_unseen:
            expected[str(quest["id"])] = (done == 0, is_behind, is_unseen, str(quest["user_id"]))
    stuck = filled_service.list_stuck_quests()
    found = {
        str(item.quest.id): (item.is_untouched, item.is_behind, item.is_unseen, str(item.quest.user_id))
        for item in stuck.first
    }
    assert found == expected
    reasons = list(expected.values())
    assert (stuck.quests, stuck.players) == (len(reasons), len({row[3] for row in reasons}))
    assert (stuck.untouched, stuck.behind, stuck.unseen) == tuple(
        sum(bool(row[place]) for row in reasons) for place in range(3)
    )
    names = {str(row["id"]): row["username"] for row in users.values()}
    assert [item.username for item in stuck.first] == [names[str(item.quest.user_id)] for item in stuck.first]
    order = [(item.is_unseen, item.quest.created_at) for item in stuck.first]
    assert order == sorted(order)


HOUR, DAYS = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("age", "left", "progress", "reasons"),
    [
        (HOUR, 23 * HOUR, 0, None),  # a quest of one day is never stuck
        (20 * HOUR, 4 * HOUR, 0, None),
        (3 * DAYS, 4 * DAYS, 0, None),  # less than half of its time is over
        (4 * DAYS, 3 * DAYS, 0, (True, False)),
        (5 * DAYS, 2 * DAYS, 3, (False, True)),  # 30% done after 71% of the time
        (5 * DAYS, 2 * DAYS, 4, None),
        (6 * DAYS, DAYS, 0, None),  # expires within a day
        (6 * DAYS, DAYS + timedelta(minutes=1), 0, (True, False)),
        (7 * DAYS - HOUR, None, 0, None),
        (7 * DAYS, None, 0, (True, False)),
        (70 * DAYS, None, 1, None),
    ],
)
def test_a_quest_is_stuck_after_half_of_its_time(
    service: EnhancedDatabaseService,
    age: timedelta,
    left: timedelta | None,
    progress: int,
    reasons: tuple[bool, bool] | None,
) -> None:
    """Alice's quest with no or slow progress is stuck after half of its time, unless it expires within a day.

    Bob was never seen, so the same is true for his quest with any progress.
    """
    service._clock = lambda: NOW
    alice, bob = service.create_user(username="alice"), service.create_user(username="bob")
    service.touch_last_active(alice.id)
    end = None if left is None else NOW + left
    service.load_quests(build_quest(player.id, NOW - age, end, progress=progress) for player in (alice, bob))
    found = {item.username: item for item in service.list_stuck_quests().first}
    alices = found.get("alice")
    assert (None if alices is None else (alices.is_untouched, alices.is_behind)) == reasons
    half = timedelta(days=7) if left is None else (age + left) / 2
    is_expiring = left is not None and left <= DAYS
    assert ("bob" in found) == (age >= half and not is_expiring)
    expiring = service.list_expiring_quests(within=DAYS)
    assert {item.username for item in expiring} == ({"alice", "bob"} if is_expiring else set())


def test_stuck_quests_are_counted_by_type(filled_service: EnhancedDatabaseService) -> None:
    """The counts of the types add up to the total, and a limit shortens the list but not the count."""
    everything = filled_service.list_stuck_quests()
    kinds = {item.quest.type for item in everything.first}
    assert sum(filled_service.list_stuck_quests(type=kind).quests for kind in kinds) == everything.quests
    assert filled_service.list_stuck_quests(limit=1).quests == everything.quests
    assert filled_service.list_stuck_quests(limit=1).first == everything.first[:1]


def test_a_sample_limits_the_compared_players(service: EnhancedDatabaseService) -> None:
    """A sample of 4 of the 12 players has fewer sessions; a sample of all 12 gives the full result."""
    service._clock = lambda: NOW
    write_scenario(service, "players come and go", NOW)
    everybody, some = service.get_quest_returns(), service.get_quest_returns(players=4)
    assert 0 < sum(item.sessions_with for item in some) < sum(item.sessions_with for item in everybody)
    assert service.get_quest_returns(players=12) == everybody
