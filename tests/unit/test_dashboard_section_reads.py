"""Reads of page sections: last known values, outages of the database, and slow reads."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import DatabaseUnavailable
from dashboard import section_reads
from dashboard.live import describe_last_known
from dashboard.section_reads import Reader, ReadThreads

NOON = datetime(2026, 3, 2, 12, 3, 10, tzinfo=UTC)


class FakeDatabase:
    """A database that the test turns off and on, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOON
        self.is_up = True
        self.checks = 0
        self.stale: float | None = None

    def check(self) -> bool:
        """Return whether the database is up, and count the call."""
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
def database() -> FakeDatabase:
    """Return a database that is up."""
    return FakeDatabase()


def build_failing_load(error: Exception) -> Callable[[], str]:
    """Return a loader that raises this error."""

    def load() -> str:
        raise error

    return load


def test_a_failed_read_returns_the_last_known_value(database: FakeDatabase) -> None:
    """A failed read returns the key's last known value, with its time and the error."""
    reader = database.open_reader()
    assert reader.read(("prices", "IBM"), lambda: "80").error is None
    database.now += timedelta(minutes=5)
    error = ValueError("broken")
    assert reader.read(("prices", "IBM"), build_failing_load(error)) == ("80", NOON, error)
    with pytest.raises(ValueError, match="broken"):
        reader.read(("prices", "FB"), build_failing_load(error))


def test_an_outage_stops_further_reads(database: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a read has found an outage, other reads do not reach the database until a check succeeds."""
    reader = database.open_reader()
    for key in ("a", "b"):
        reader.read(key, lambda: "known")
    database.is_up = False
    assert reader.read("a", build_failing_load(DatabaseUnavailable("gone"))).value == "known"
    assert database.checks == 1
    loads: list[str] = []

    def load_new() -> str:
        loads.append("database")
        return "new"

    assert reader.read("b", load_new).value == "known"
    assert isinstance(reader.read("b", load_new).error, DatabaseUnavailable)
    with pytest.raises(DatabaseUnavailable):
        reader.read("c", load_new)
    assert loads == []
    assert database.checks == 1
    database.is_up = True
    monkeypatch.setattr(section_reads, "CHECK_SECONDS", 0.0)
    assert reader.read("b", lambda: "new")[::2] == ("new", None)


def test_a_failed_read_of_a_healthy_database_is_no_outage(database: FakeDatabase) -> None:
    """If a read fails and the check succeeds, other reads still reach the database."""
    reader = database.open_reader()
    reader.read("a", lambda: "known")
    reader.read("a", build_failing_load(DatabaseUnavailable("lost the connection")))
    assert reader.read("b", lambda: "new").value == "new"
    assert not reader.is_database_down()


def test_a_hanging_read_returns_the_last_known_value(database: FakeDatabase) -> None:
    """If a read hangs and the check fails, the last known value is returned before the query timeout."""
    reader = database.open_reader(slow_read_seconds=0.02)
    reader.read("a", lambda: "known")
    database.is_up = False
    server_answers = threading.Event()
    try:
        reading = reader.read("a", lambda: str(server_answers.wait(60)))
    finally:
        server_answers.set()
    assert reading.value == "known"
    assert isinstance(reading.error, DatabaseUnavailable)


def test_a_slow_read_of_a_healthy_database_is_awaited(database: FakeDatabase) -> None:
    """A slow read is awaited as long as every check of the database succeeds."""
    reader = database.open_reader(slow_read_seconds=0.01)

    def load_slowly() -> str:
        while database.checks < 3:
            threading.Event().wait(0.005)
        return "slow"

    assert reader.read("a", load_slowly)[::2] == ("slow", None)


def test_young_values_are_not_read_again(database: FakeDatabase) -> None:
    """A value younger than `max_age_seconds` is read again only if its last read failed."""
    reader = database.open_reader()
    reader.read("young", lambda: "first")
    reader.read("failed", lambda: "first")
    reader.read("failed", build_failing_load(ValueError("broken")))
    database.now += timedelta(seconds=20)
    found = {key: reader.read(key, lambda: "second", max_age_seconds=24) for key in ("young", "failed")}
    assert {key: reading.value for key, reading in found.items()} == {"young": "first", "failed": "second"}
    database.now += timedelta(seconds=20)
    assert reader.read("young", lambda: "third", max_age_seconds=24).value == "third"


def test_reads_within_two_seconds_share_a_value(database: FakeDatabase) -> None:
    """A value is shared for `fresh_seconds`, but not after `read_again` or during an outage."""
    reader = database.open_reader(fresh_seconds=2.0)
    values = iter(range(10))

    def read() -> int:
        return reader.read("prices", lambda: next(values)).value

    assert [read(), read()] == [0, 0]
    database.now += timedelta(seconds=2)
    assert [read(), read()] == [1, 1]
    database.now += timedelta(milliseconds=1)
    reader.read_again()
    assert [read(), read()] == [2, 2]
    reader.record_health(is_up=False)
    assert reader.read("prices", lambda: next(values))[::2][1] is not None
    database.is_up = True
    reader.record_health(is_up=True)
    assert read() == 3


def test_a_fail_safe_value_is_not_fresh(database: FakeDatabase) -> None:
    """A fail-safe value of the service has the time of its read and the error that the database is down."""
    reader = database.open_reader()
    database.stale, database.is_up = 42.0, False
    reading = reader.read("a", lambda: "fail-safe")
    assert reading.read_at == NOON - timedelta(seconds=42)
    assert isinstance(reading.error, DatabaseUnavailable)
    assert reader.is_database_down()


def test_known_values_are_bounded(database: FakeDatabase) -> None:
    """At most `entries` last known values are kept, and the least recently used is evicted."""
    reader = database.open_reader(entries=2)
    for key in ("a", "b", "a", "c"):
        reader.read(key, lambda: "known")
    broken = ValueError("broken")
    assert reader.read("a", build_failing_load(broken)).value == "known"
    with pytest.raises(ValueError, match="broken"):
        reader.read("b", build_failing_load(broken))


def test_workers_are_bounded_and_used_again() -> None:
    """Twenty jobs run in at most two threads, and a job that raises does not end its thread."""
    workers = ReadThreads(limit=2)
    names: set[str] = set()
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(10)
    for future in [workers.submit(lambda: names.add(str(threading.get_ident()))) for _ in range(20)]:
        future.result(10)
    assert 1 <= len(names) <= 2


def test_the_text_of_last_known_values() -> None:
    """The text has the time, the cause and the next attempt, and the date if it is another day."""
    cause = "the database does not answer"
    today = describe_last_known(NOON, now=NOON + timedelta(hours=1), cause=cause, is_live=True)
    assert today == "Last known values of 12:03:10 UTC; the database does not answer; next try in 5 s"
    other = describe_last_known(NOON, now=NOON + timedelta(days=1), cause=cause, is_live=False)
    assert other.startswith("Last known values of 2026-03-02 12:03:10 UTC; ")
    assert other.endswith("; Refresh tries again")
