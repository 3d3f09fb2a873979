"""Importing price files."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from core import EnhancedDatabaseService, Settings
from core.cli import main
from core.errors import PriceFileError
from core.records import Tick
from core.simulation.prices import SHOWN_PROBLEMS, import_prices
from tests.conftest import Execute
from tests.market_days import SHIPPED, import_days, write_days

HEADER = "Ticker,Date,Open,High,Low,Close,Volume"
ALL_TICKS = "SELECT * FROM ticks ORDER BY symbol, timestamp"


def write(path: Path, *rows: str) -> Path:
    """Write a price file."""
    path.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return path


def row(day: int, close: float = 100, symbol: str = "AAPL") -> str:
    """Return a valid row of a day in January 2013."""
    return f"{symbol},2013-01-{day:02},{close},{close + 1},{close - 1},{close},1000"


def test_the_shipped_history_is_imported_once(service: EnhancedDatabaseService, execute: Execute) -> None:
    """3,270 days of AAPL; the split of 2005-02-28 is no crash; a second import changes nothing."""
    first = import_prices(service, SHIPPED)
    assert (first.rows, first.changed, first.skipped, first.repeated) == (12_154, 12_154, 0, 0)
    rows = execute(ALL_TICKS)
    start, end = datetime(2000, 1, 1, tzinfo=UTC), datetime(2013, 12, 31, tzinfo=UTC)
    days = service.get_price_history("AAPL", start, end, "1d")
    assert len(days) == 3_270
    assert (str(days[0].bucket.date()), str(days[-1].bucket.date())) == ("2000-03-01", "2013-03-01")
    split = datetime(2005, 2, 28, 21, tzinfo=UTC)
    ((percent,),) = execute(
        "SELECT change_percent_24h FROM ticks WHERE symbol = 'AAPL' AND timestamp = %s", (split,)
    )
    assert abs(percent) < 5
    second = import_prices(service, SHIPPED)
    assert (second.rows, second.changed) == (12_154, 0)
    assert execute(ALL_TICKS) == rows


def test_a_day_is_one_tick_at_its_close(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """Its candle has the day's open, high and low."""
    import_prices(service, write(tmp_path / "prices.csv", "IBM,2013-01-02,100,110,90,105,1000.0"))
    assert service.get_latest_market_data() == (
        Tick(
            "IBM",
            datetime(2013, 1, 2, 21, tzinfo=UTC),
            Decimal(105),
            1000,
            open=Decimal(100),
            high=Decimal(110),
            low=Decimal(90),
        ),
    )
    midnight = datetime(2013, 1, 2, tzinfo=UTC)
    (candle,) = service.get_price_history("IBM", midnight, midnight.replace(day=3), "1d")
    assert (candle.open, candle.high, candle.low, candle.close, candle.ticks) == (100, 110, 90, 105, 1)


def test_a_part_of_the_history_changes_nothing(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Change and volatility of its first days count on the days in the database."""
    import_days(service, tmp_path, "2012-06-01")
    rows = execute(ALL_TICKS)
    assert import_days(service, tmp_path, "2012-09-04", "2012-12-31").changed == 0
    assert execute(ALL_TICKS) == rows


def test_days_can_be_added(service: EnhancedDatabaseService, execute: Execute, tmp_path: Path) -> None:
    """Two files in order give the ticks of one."""
    import_days(service, tmp_path, "2012-06-01")
    whole = execute(ALL_TICKS)
    execute("TRUNCATE ticks")
    service.clear_market_data_cache()
    import_days(service, tmp_path, "2012-06-01", "2012-09-03")
    import_days(service, tmp_path, "2012-09-04")
    assert execute(ALL_TICKS) == whole


def test_a_corrected_row_is_the_only_change(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """And cached prices follow it; the last of repeated rows counts."""
    import_prices(service, write(tmp_path / "prices.csv", row(2), row(3), row(4)))
    service.get_latest_market_data()
    result = import_prices(service, write(tmp_path / "prices.csv", row(2), row(3), row(4), row(4, 104)))
    assert (result.rows, result.repeated, result.changed) == (3, 1, 1)
    assert service.get_latest_market_data()[0].price == 104
    assert execute("SELECT count(*) FROM ticks") == [(3,)]


def test_a_malformed_row_loads_nothing(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """However late in the file it stands."""
    path = write_days(tmp_path / "prices.csv", "2000-03-01")
    with path.open("a", encoding="utf-8") as file:
        file.write("AAPL,2013-03-04,1,2,3,oops,5,6\n")
    with pytest.raises(PriceFileError, match=r"prices\.csv:12156: close 'oops'"):
        import_prices(service, path)
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_invalid_rows_can_be_skipped(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """The others are loaded; all are counted and the first ones described."""
    bad = [f"AAPL,2013-01-{day},1,2,1,1,1" for day in range(40, 50)]
    path = write(tmp_path / "prices.csv", row(2), *bad, row(2, -1, "IBM"), row(3))
    result = import_prices(service, path, skip_invalid=True)
    assert (result.rows, result.changed, result.skipped) == (2, 2, 11)
    assert result.symbols == ("AAPL",)
    assert len(result.problems) == SHOWN_PROBLEMS
    assert str(result.problems[0]) == "line 3: date '2013-01-40' is not a day as YYYY-MM-DD"


def test_a_file_without_a_valid_row_is_refused(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """With a header only, and when every row is invalid; a lost quote is never skipped."""
    with pytest.raises(PriceFileError, match="has no valid row"):
        import_prices(service, write(tmp_path / "prices.csv"))
    with pytest.raises(PriceFileError, match="has no valid row"):
        import_prices(service, write(tmp_path / "prices.csv", "short"), skip_invalid=True)
    with pytest.raises(PriceFileError, match="a quote that is opened here"):
        import_prices(
            service, write(tmp_path / "prices.csv", row(2), '"' + row(3), row(4)), skip_invalid=True
        )
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_progress_reaches_the_end(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """Both of reading and of loading, in units of their own."""
    seen: dict[str, tuple[int, int]] = {}

    def note(stage: str, done: int, total: int) -> None:
        assert seen.get(stage, (0, 0))[0] <= done <= total
        seen[stage] = (done, total)

    import_prices(service, write_days(tmp_path / "prices.csv", "2012-06-01"), progress=note)
    assert list(seen) == ["reading prices", "loading prices"]
    assert all(done == total for done, total in seen.values())


def test_the_command_names_file_line_and_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit status 2 and one line; with --skip-invalid the rest is loaded."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")
    path = write(tmp_path / "prices.csv", row(2), "AAPL,2013-01-03,0,1,1,1,1")
    refused = CliRunner().invoke(main, ["import-prices", str(path)])
    assert refused.exit_code == 2
    assert f"error: {path}:3: open '0' is not a price above 0" in refused.output
    skipped = CliRunner().invoke(main, ["import-prices", "--skip-invalid", str(path)])
    assert skipped.exit_code == 0, skipped.output
    assert "1 days of 1 symbols read, 1 new or changed, 1 skipped" in skipped.output
