"""Partitions of ticks: created in advance, filled from the default partition, and dropped by age."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from click.testing import CliRunner

from core import EnhancedDatabaseService, Settings
from core.cli import main
from core.errors import InvalidInput
from core.queries.ticks import month_after
from core.records import PartitionReport, Tick
from core.service.argument_checks import find_end_of_tomorrow
from tests.conftest import Execute

NOW = datetime.now(UTC)
DAYS = "SELECT tableoid::regclass::text, timestamp FROM ticks ORDER BY timestamp"
PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY relname"


def month(ahead: int) -> datetime:
    """Return the start of the month that is this many months after the current one."""
    time = NOW.replace(day=1)
    for _ in range(ahead):
        time = month_after(time)
    for _ in range(-ahead):
        time = (time - timedelta(days=1)).replace(day=1)
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def partition_name(ahead: int) -> str:
    """Return the name of the partition of `month(ahead)`."""
    return f"ticks_{month(ahead):%Y_%m}"


def load(service: EnhancedDatabaseService, *times: datetime, symbol: str = "AAPL") -> None:
    """Insert a tick for each time, with the prices 1, 2, 3 and so on."""
    service.insert_market_ticks(
        Tick(symbol, time, Decimal(price)) for price, time in enumerate(times, start=1)
    )


def test_every_time_has_a_partition(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Ticks of 1990, of now and after the last created month are stored in a partition and can be read."""
    long_ago, far_away = datetime(1990, 1, 1, tzinfo=UTC), month(40)
    service._clock = lambda: far_away
    load(service, long_ago, NOW, far_away)
    assert execute(DAYS) == [
        ("ticks_before", long_ago),
        (partition_name(0), NOW),
        ("ticks_default", far_away),
    ]
    assert service.get_latest_market_data(["AAPL"])[0].price == 3
    assert service.get_latest_market_data()[0].price == 3


def test_future_ticks_are_not_the_latest(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Latest prices leave out ticks after tomorrow, which an older release may have stored in any month."""
    last = datetime.max.replace(tzinfo=UTC)
    load(service, NOW, symbol="MSFT")
    load(service, month(-5), symbol="IBM")
    rows = [
        (symbol, time)
        for symbol in ("AAPL", "MSFT", "IBM")
        for time in (last, last - timedelta(days=30), find_end_of_tomorrow(NOW))
    ]
    for row in rows:
        execute("INSERT INTO ticks (symbol, timestamp, price) VALUES (%s, %s, 7)", row)
    for _ in range(2):
        latest = service.get_latest_market_data(["AAPL", "IBM", "MSFT"])
        assert [(tick.symbol, tick.timestamp) for tick in latest] == [("IBM", month(-5)), ("MSFT", NOW)]
        assert service.get_latest_market_data() == latest
        assert [line.symbol for line in service.get_sparklines()] == ["IBM", "MSFT"]
        service.clear_market_data_cache()


def test_latest_ticks_are_found_in_every_month(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Latest ticks are found in any month, also after an insert, an update or a delete of a latest tick."""
    symbols = ["A", "B", "C", "D", "E"]
    service._clock = lambda: month(30)
    for age, symbol in enumerate(symbols):
        load(service, month(-age), symbol=symbol)
    assert [tick.symbol for tick in service.get_latest_market_data([*symbols, "NONE"])] == symbols
    load(service, month(1), symbol="B")
    execute("UPDATE ticks SET timestamp = %s WHERE symbol = 'C'", (month(30),))
    load(service, month(-2), symbol="C")
    load(service, month(-9), symbol="D")
    execute("DELETE FROM ticks WHERE symbol = 'D' AND timestamp = %s", (month(-3),))
    service.clear_market_data_cache()
    expected = [("A", month(0)), ("B", month(1)), ("C", month(30)), ("D", month(-9)), ("E", month(-4))]
    assert [(tick.symbol, tick.timestamp) for tick in service.get_latest_market_data()] == expected
    some = service.get_latest_market_data(symbols)
    assert [(tick.symbol, tick.timestamp) for tick in some] == expected


def test_maintenance_creates_months_once(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Migrations create partitions for two months ahead; maintenance adds months, a second run adds none."""
    assert service.maintain_partitions() == PartitionReport((), (), 0)
    assert service.maintain_partitions(months_ahead=4).created == (partition_name(3), partition_name(4))
    assert service.maintain_partitions(months_ahead=4) == PartitionReport((), (), 0)
    assert {(partition_name(n),) for n in range(5)} <= set(execute(PARTITIONS))


def test_ticks_move_from_the_default_to_their_partition(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Maintenance moves ticks of the created months out of the default partition; other ticks stay there."""
    times = [month(3), month(4) - timedelta(microseconds=1), month(4), month(9)]
    service._clock = lambda: month(9)
    load(service, *times)
    service._clock = lambda: NOW
    assert service.maintain_partitions(months_ahead=4) == PartitionReport(
        (partition_name(3), partition_name(4)), (), 3
    )
    places = [partition_name(3), partition_name(3), partition_name(4), "ticks_default"]
    assert execute(DAYS) == list(zip(places, times, strict=True))
    service._clock = lambda: month(9)
    assert service.get_latest_market_data(["AAPL"])[0].price == 4


def test_old_partitions_are_dropped(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Dropping old partitions invalidates caches and deletes symbols that have no ticks left."""
    later = timedelta(days=200)
    load(service, datetime(2001, 1, 1, tzinfo=UTC), NOW)
    load(service, datetime(2001, 1, 2, tzinfo=UTC), symbol="GONE")
    assert len(service.get_latest_market_data()) == 2
    assert service.get_latest_market_data(["GONE"]) != ()
    service._clock = lambda: NOW + later
    report = service.maintain_partitions(keep=timedelta(days=30))
    assert report.dropped[:2] == ("ticks_before", partition_name(0))
    assert service.get_latest_market_data(["GONE"]) == ()
    assert service.get_latest_market_data() == ()
    assert execute("SELECT count(*) FROM symbols") == [(0,)]
    load(service, datetime(2001, 1, 3, tzinfo=UTC))
    assert execute(DAYS)[0][0] == "ticks_before"
    assert service.maintain_partitions(keep=timedelta(days=30)).dropped == ("ticks_before",)
    assert service.maintain_partitions(keep=timedelta(days=30)) == PartitionReport((), (), 0)


def test_a_partition_with_recent_ticks_is_kept(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Maintenance keeps a partition that ended less than `keep` ago, or ends in the future."""
    load(service, NOW)
    assert service.maintain_partitions(keep=timedelta(days=1)).dropped == ()
    assert execute("SELECT count(*) FROM ticks") == [(1,)]


def test_concurrent_maintenance_creates_partitions_once(service: EnhancedDatabaseService) -> None:
    """Of four concurrent runs one creates the partitions, and concurrent inserts succeed."""
    reports: list[PartitionReport] = []
    barrier = threading.Barrier(5)

    def maintain() -> None:
        barrier.wait()
        reports.append(service.maintain_partitions(months_ahead=6))

    threads = [threading.Thread(target=maintain) for _ in range(4)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for minute in range(20):
        load(service, NOW + timedelta(minutes=minute))
    for thread in threads:
        thread.join(60)
    assert sorted(len(report.created) for report in reports) == [0, 0, 0, 4]
    assert service.get_latest_market_data(["AAPL"])[0].timestamp == NOW + timedelta(minutes=19)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"months_ahead": -1}, "months_ahead is -1"),
        ({"months_ahead": 25}, "months_ahead is 25"),
        ({"keep": timedelta(hours=1)}, "keep is"),
        ({"keep": 30}, "keep is 30"),
    ],
)
def test_invalid_arguments_drop_no_partition(
    service: EnhancedDatabaseService, execute: Execute, arguments: dict[str, object], message: str
) -> None:
    """An invalid argument, such as the number 30 for `keep`, raises InvalidInput and drops no partition."""
    before = execute(PARTITIONS)
    with pytest.raises(InvalidInput, match=message):
        service.maintain_partitions(**arguments)  # type: ignore[arg-type]  # wrong on purpose
    assert execute(PARTITIONS) == before


def test_the_command_prints_created_partitions(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints a line for each created partition, or "nothing to do"."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")
    run = CliRunner().invoke
    created = [
        f"created {partition_name(3)}",
        f"created {partition_name(3).replace('ticks', 'audit_events')}",
    ]
    assert run(main, ["maintain", "--months-ahead", "3"]).output.splitlines() == created
    assert run(main, ["maintain", "--keep-days", "4000"]).output == "nothing to do\n"
    assert run(main, ["maintain", "--keep-days", "0"]).exit_code == 2
