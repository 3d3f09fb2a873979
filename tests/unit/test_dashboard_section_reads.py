"""Reads of page sections: last known values, the memory of an outage, and patience."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import DatabaseUnavailable
from dashboard import section_reads
from dashboard.live import describe_last_known
from dashboard.section_reads import Reader, ReadThreads

NOON = datetime(2026, 3, 2, 12, 3, 10, tzinfo=UTC)


class World:
    """A database that can be up or away, and a clock that stands still until told."""

    def __init__(self) -> None:
        self.now = NOON
        self.is_up = True
        self.checks = 0
        self.stale: float | None = None

    def check(self) -> bool:
        """Return whether the database is up, and count who asks."""
        self.checks += 1
        return self.is_up

    def open_reader(self, **options: float) -> Reader:
        """Return a reader of this database."""
        return Reader(
            is_database_up=self.check,
            find_stale=lambda: self.stale,
            clock=lambda: self.now,
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture
def world() -> World:
    """A database that is up."""
    return World()


def raise_error(error: Exception) -> Callable[[], str]:
    """Return a load that fails with this error."""

    def load() -> str:
        raise error

    return load


def test_a_failed_read_returns_the_last_known_value(world: World) -> None:
    """The reading has its time and the error, and belongs to the same key."""
    reader = world.open_reader()
    assert reader.read(("prices", "IBM"), lambda: "80").error is None
    world.now += timedelta(minutes=5)
    error = ValueError("broken")
    assert reader.read(("prices", "IBM"), raise_error(error)) == ("80", NOON, error)
    with pytest.raises(ValueError, match="broken"):
        reader.read(("prices", "FB"), raise_error(error))


def test_nothing_is_asked_while_the_database_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read notices the outage, the others return known values; checks are made at intervals."""
    reader = world.open_reader()
    for key in ("a", "b"):
        reader.read(key, lambda: "known")
    world.is_up = False
    assert reader.read("a", raise_error(DatabaseUnavailable("gone"))).value == "known"
    assert world.checks == 1
    asked: list[str] = []

    def ask() -> str:
        asked.append("database")
        return "new"

    assert reader.read("b", ask).value == "known"
    assert isinstance(reader.read("b", ask).error, DatabaseUnavailable)
    with pytest.raises(DatabaseUnavailable):
        reader.read("c", ask)
    assert asked == []
    assert world.checks == 1
    world.is_up = True
    monkeypatch.setattr(section_reads, "CHECK_SECONDS", 0.0)
    assert reader.read("b", lambda: "new")[::2] == ("new", None)


def test_one_failure_of_many_is_no_outage(world: World) -> None:
    """While the health check succeeds, other reads continue."""
    reader = world.open_reader()
    reader.read("a", lambda: "known")
    reader.read("a", raise_error(DatabaseUnavailable("lost the connection")))
    assert reader.read("b", lambda: "new").value == "new"
    assert not reader.is_database_away()


def test_a_hanging_read_gives_way_to_the_last_known_value(world: World) -> None:
    """The known value is returned when the health check fails, not after the query timeout."""
    reader = world.open_reader(patience_seconds=0.02)
    reader.read("a", lambda: "known")
    world.is_up = False
    server_answers = threading.Event()
    try:
        reading = reader.read("a", lambda: str(server_answers.wait(60)))
    finally:
        server_answers.set()
    assert reading.value == "known"
    assert isinstance(reading.error, DatabaseUnavailable)


def test_a_slow_read_of_a_healthy_database_is_waited_for(world: World) -> None:
    """It is waited for, however often the health is checked meanwhile."""
    reader = world.open_reader(patience_seconds=0.01)

    def load_slowly() -> str:
        while world.checks < 3:
            threading.Event().wait(0.005)
        return "slow"

    assert reader.read("a", load_slowly)[::2] == ("slow", None)


def test_a_retry_leaves_young_values_alone(world: World) -> None:
    """A value whose last read failed is read again, however young it is."""
    reader = world.open_reader()
    reader.read("young", lambda: "first")
    reader.read("failed", lambda: "first")
    reader.read("failed", raise_error(ValueError("broken")))
    world.now += timedelta(seconds=20)
    found = {key: reader.read(key, lambda: "second", max_age_seconds=24) for key in ("young", "failed")}
    assert {key: reading.value for key, reading in found.items()} == {"young": "first", "failed": "second"}
    world.now += timedelta(seconds=20)
    assert reader.read("young", lambda: "third", max_age_seconds=24).value == "third"


def test_visitors_who_come_together_share_a_read(world: World) -> None:
    """They share it for two seconds, but not after Refresh or during an outage."""
    reader = world.open_reader(fresh_seconds=2.0)
    values = iter(range(10))

    def read() -> int:
        return reader.read("prices", lambda: next(values)).value

    assert [read(), read()] == [0, 0]
    world.now += timedelta(seconds=2)
    assert [read(), read()] == [1, 1]
    world.now += timedelta(milliseconds=1)
    reader.read_again()
    assert [read(), read()] == [2, 2]
    reader.record_health(is_up=False)
    assert reader.read("prices", lambda: next(values))[::2][1] is not None
    world.is_up = True
    reader.record_health(is_up=True)
    assert read() == 3


def test_a_value_that_the_service_kept_is_not_fresh(world: World) -> None:
    """During an outage the service returns fail-safe values, and the reading says so."""
    reader = world.open_reader()
    world.stale, world.is_up = 42.0, False
    reading = reader.read("a", lambda: "fail-safe")
    assert reading.read_at == NOON - timedelta(seconds=42)
    assert isinstance(reading.error, DatabaseUnavailable)
    assert reader.is_database_away()


def test_known_values_are_bounded(world: World) -> None:
    """The least recently used is evicted."""
    reader = world.open_reader(entries=2)
    for key in ("a", "b", "a", "c"):
        reader.read(key, lambda: "known")
    broken = ValueError("broken")
    assert reader.read("a", raise_error(broken)).value == "known"
    with pytest.raises(ValueError, match="broken"):
        reader.read("b", raise_error(broken))


def test_workers_are_bounded_and_used_again() -> None:
    """Jobs beyond the limit wait; the caller gets an error, and the worker continues."""
    workers = ReadThreads(limit=2)
    names: set[str] = set()
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(10)
    for future in [workers.submit(lambda: names.add(str(threading.get_ident()))) for _ in range(20)]:
        future.result(10)
    assert 1 <= len(names) <= 2


def test_the_note_of_a_section() -> None:
    """The note has time, cause and next try in one line; the date only for another day."""
    cause = "the database does not answer"
    today = describe_last_known(NOON, now=NOON + timedelta(hours=1), cause=cause, is_live=True)
    assert today == "Last known values of 12:03:10 UTC; the database does not answer; next try in 5 s"
    other = describe_last_known(NOON, now=NOON + timedelta(days=1), cause=cause, is_live=False)
    assert other.startswith("Last known values of 2026-03-02 12:03:10 UTC; ")
    assert other.endswith("; Refresh tries again")
