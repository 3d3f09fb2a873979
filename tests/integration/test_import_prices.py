"""Import of price files, with the service and with `echo-markets import-prices`."""

import math
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core import EnhancedDatabaseService, Settings
from core.cli import main
from core.errors import InvalidInput, PriceFileError
from core.price_import.loading import load_prices, move_to_today
from core.price_import.options import parse_options
from core.price_import.reading import read_prices
from core.records import Tick
from core.simulation.history import load_history
from core.simulation.market_events import list_events
from tests.conftest import Execute
from tests.market_days import SHIPPED, import_days, write_days
from tests.price_files import import_prices

HEADER = "Ticker,Date,Open,High,Low,Close,Volume"
ALL_TICKS = "SELECT * FROM ticks ORDER BY symbol, timestamp"


def write(path: Path, *rows: str) -> Path:
    """Write a price file with the usual header, and return its path."""
    path.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return path


def row(day: int, close: float = 100, symbol: str = "AAPL") -> str:
    """Return a valid row for a day in January 2013."""
    return f"{symbol},2013-01-{day:02},{close},{close + 1},{close - 1},{close},1000"


def test_importing_the_shipped_history_is_idempotent(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """The import stores 3,270 days of AAPL, adjusted for splits, and a second import changes no row."""
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


@pytest.mark.parametrize("days", [0, 1, 5, 6, 7, 20])
def test_moved_history_ends_within_the_last_week(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path, days: int
) -> None:
    """A moved history ends 1 to 7 days ago; later imports of it are moved by the same number of weeks."""
    prices = read_prices(write(tmp_path / "prices.csv", row(2), row(3), row(4)))
    today = date(2020, 11, 20) + timedelta(days=days)
    weeks = move_to_today(service, prices, today)
    service.update_moved_weeks(dict.fromkeys(load_prices(service, prices).symbols, weeks))
    ((last,),) = execute("SELECT max(timestamp)::date FROM ticks")
    assert 1 <= (today - last).days <= 7
    assert last - date(2013, 1, 4) == timedelta(weeks=weeks)
    assert service.get_moved_weeks() == {"AAPL": weeks}
    again = read_prices(tmp_path / "prices.csv")
    assert move_to_today(service, again, today + timedelta(days=100)) == weeks
    assert load_prices(service, again).changed == 0
    with pytest.raises(InvalidInput, match=f"moved by {weeks} weeks"):
        move_to_today(service, again, today, keep_dates=True)


def test_history_imported_with_its_dates_stays_unmoved(
    service: EnhancedDatabaseService, tmp_path: Path
) -> None:
    """A history that was first imported with `keep_dates` is not moved by a later import either."""
    prices = read_prices(write(tmp_path / "prices.csv", row(2), row(3)))
    assert move_to_today(service, prices, date(2026, 11, 26), keep_dates=True) == 0
    load_prices(service, prices)
    assert move_to_today(service, read_prices(tmp_path / "prices.csv"), date(2026, 11, 26)) == 0


def test_a_day_is_one_tick_at_its_close(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """A row of the file becomes one tick at closing time with the row's open, high and low."""
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


def test_importing_stored_days_again_changes_nothing(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Importing some stored days again changes no row.

    Their price changes are calculated with the stored days before them, which the file does not contain.
    """
    import_days(service, tmp_path, "2012-06-01")
    rows = execute(ALL_TICKS)
    assert import_days(service, tmp_path, "2012-09-04", "2012-12-31").changed == 0
    assert execute(ALL_TICKS) == rows


def test_a_history_can_be_imported_in_two_files(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Two files, imported in order of their days, give the same ticks as one file."""
    import_days(service, tmp_path, "2012-06-01")
    whole = execute(ALL_TICKS)
    execute("TRUNCATE ticks")
    service.clear_market_data_cache()
    import_days(service, tmp_path, "2012-06-01", "2012-09-03")
    import_days(service, tmp_path, "2012-09-04")
    assert execute(ALL_TICKS) == whole


def test_only_a_corrected_row_changes(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """If one row of a file is corrected, only its tick and cached price change.

    A row that the file contains twice is counted once.
    """
    import_prices(service, write(tmp_path / "prices.csv", row(2), row(3), row(4)))
    service.get_latest_market_data()
    result = import_prices(service, write(tmp_path / "prices.csv", row(2), row(3), row(4, 104), row(4, 104)))
    assert (result.rows, result.repeated, result.changed) == (3, 1, 1)
    assert service.get_latest_market_data()[0].price == 104
    assert execute("SELECT count(*) FROM ticks") == [(3,)]


def test_a_malformed_row_loads_nothing(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """If the last row of a file is malformed, the error names file, line and value, and no tick is stored."""
    path = write_days(tmp_path / "prices.csv", "2000-03-01")
    with path.open("a", encoding="utf-8") as file:
        file.write("AAPL,2013-03-04,1,2,3,oops,5,6\n")
    with pytest.raises(PriceFileError, match=r"prices\.csv:12156: close 'oops'"):
        import_prices(service, path)
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_invalid_rows_can_be_skipped(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """With `skip_invalid` the valid rows are loaded, and the result has the first row of each reason."""
    bad = [f"AAPL,2013-01-{day},1,2,1,1,1" for day in range(40, 50)]
    path = write(tmp_path / "prices.csv", row(2), *bad, row(2, -1, "IBM"), row(3))
    result = import_prices(service, path, parse_options(skip_invalid=True))
    assert (result.rows, result.changed, result.skipped) == (2, 2, 11)
    assert result.symbols == ("AAPL",)
    assert list(map(str, result.problems)) == [
        f"{path}:3: date '2013-01-40' is not a day as YYYY-MM-DD",
        f"{path}:13: open '-1' is not a price above 0 and up to 1000000000",
    ]


def test_a_file_without_a_valid_row_is_refused(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A file with a header only, with only invalid rows or with an unclosed quote raises PriceFileError."""
    with pytest.raises(PriceFileError, match="has no valid row"):
        import_prices(service, write(tmp_path / "prices.csv"))
    with pytest.raises(PriceFileError, match="has no valid row"):
        import_prices(service, write(tmp_path / "prices.csv", "short"), parse_options(skip_invalid=True))
    with pytest.raises(PriceFileError, match="a quote that is opened here"):
        import_prices(
            service,
            write(tmp_path / "prices.csv", row(2), '"' + row(3), row(4)),
            parse_options(skip_invalid=True),
        )
    assert execute("SELECT count(*) FROM ticks") == [(0,)]


def test_progress_reaches_the_end(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """Progress is reported for reading and for loading, never decreases, and ends at the total."""
    seen: dict[str, tuple[int, int]] = {}

    def record(stage: str, done: int, total: int) -> None:
        assert seen.get(stage, (0, 0))[0] <= done <= total
        seen[stage] = (done, total)

    import_prices(service, write_days(tmp_path / "prices.csv", "2012-06-01"), progress=record)
    assert list(seen) == ["reading prices", "loading prices"]
    assert all(done == total for done, total in seen.values())


def test_figures_of_unusual_columns_equal_a_recalculation(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Prices and changes of a file with unusual columns equal those that this test calculates."""
    generator = random.Random(7)
    rows, bars = [",Stock,Date,Open,High,Low,Close,AdjClose,Volume"], dict[tuple[str, date], list[Fraction]]()
    for symbol in ("brk-b", "0700.HK"):
        for n in range(400):
            day = date(2011, 1, 3) + timedelta(days=n)
            close = round(50 + 20 * math.sin(n / 30) + generator.random(), 2)
            low, high = round(close * 0.98, 2), round(close * 1.03, 2)
            adjusted, volume = round(close * (0.25 if n < 200 else 1), 4), generator.randrange(10**9)
            rows.append(f"{n},{symbol},{day:%d-%b-%Y},{low},{high},{low},{close},{adjusted},{volume}")
            bars[symbol.upper(), day] = [
                Fraction(str(value)) for value in (low, high, close, adjusted, volume)
            ]
    (tmp_path / "history.csv").write_text("\n".join(rows))
    assert import_prices(service, tmp_path / "history.csv").changed == len(bars)
    stored = execute(
        "SELECT symbol, timestamp, open, low, high, price, volume, change_24h, change_percent_24h FROM ticks"
    )
    assert len(stored) == len(bars)
    for symbol, time, *figures, percent in stored:
        lowest_given, highest_given, closed, adjusted_given, traded_given = bars[symbol, time.date()]
        # daylight saving time began on 13 March 2011, so the close before was only 23 hours earlier
        back = timedelta(days=2 if time.date() == date(2011, 3, 13) else 1)
        before = bars.get((symbol, time.date() - back))
        change = None if before is None else adjusted_given - before[3]
        opened, lowest, highest, price, traded, changed = figures
        assert (price, traded, changed) == (adjusted_given, traded_given, change)
        for value, given in ((opened, lowest_given), (lowest, lowest_given), (highest, highest_given)):
            assert abs(Fraction(value) - given * adjusted_given / closed) <= Fraction(1, 20_000)
        if before is None or change is None:
            assert percent is None
        else:
            assert abs(Fraction(percent) - change * 100 / before[3]) <= Fraction(1, 20_000)


def test_a_split_makes_no_market_event(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A fall from 100 to 25 with a split ratio of 4 is stored as a change of 0 and makes no market event."""
    path = tmp_path / "AAPL.csv"
    path.write_text("Date,Close,Split Ratio\n2024-03-01,100,1\n2024-03-04,100,1\n2024-03-05,25,4\n")
    import_prices(service, path)
    assert execute("SELECT price, change_percent_24h FROM ticks ORDER BY timestamp") == [
        (25, None),
        (25, 0),
        (25, 0),
    ]
    history = load_history(service)
    assert [event for row in range(3) for event in list_events(history, row)] == []


def test_small_prices_keep_all_digits(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """Prices such as 0.00016 are stored and returned in candles with all digits, and changes are exact."""
    path = tmp_path / "SHIB-USD.csv"
    path.write_text("Date,Close\n2024-03-01,0.00016\n2024-03-02,0.00024\n2024-03-03,0.0002400000000000001\n")
    import_prices(service, path)
    rows = execute("SELECT price, change_percent_24h FROM ticks ORDER BY timestamp")
    assert [price for price, _ in rows] == [
        Decimal("0.00016"),
        Decimal("0.00024"),
        Decimal("0.0002400000000000001"),
    ]
    assert rows[1][1] == 50
    start = datetime(2024, 3, 1, tzinfo=UTC)
    candles = service.get_price_history("SHIB-USD", start, start + timedelta(days=2), "1d")
    assert [candle.close for candle in candles] == [Decimal("0.00016"), Decimal("0.00024")]


def build_rows(first: int, closes: list[float], symbol: str = "AAPL") -> list[str]:
    """Return rows for consecutive days of January 2013 whose open, high and low equal the close."""
    return [f"{symbol},2013-01-{first + n:02},{c},{c},{c},{c},5" for n, c in enumerate(closes)]


@pytest.mark.parametrize(
    ("first", "closes", "reason"),
    [
        (
            5,
            [25, 26],
            "AAPL jumps on 2013-01-05 as in a split of 4:1, between the days of the files and those",
        ),
        (
            4,
            [25, 25, 26],
            "AAPL does not fit the stored prices: on 2013-01-04 it closes at 25, the stored close is 100",
        ),
        (
            3,
            [99, 99, 100],
            "AAPL does not fit the stored prices: on 2013-01-03 it closes at 99, the stored close is 100",
        ),
        (1, [25], "AAPL jumps on 2013-01-02 as in a split of 1:4, between the days"),
        (1, [25, 25], "AAPL does not fit the stored prices: on 2013-01-02 it closes at 25"),
    ],
)
def test_days_that_contradict_the_stored_prices_are_refused(
    service: EnhancedDatabaseService,
    execute: Execute,
    tmp_path: Path,
    first: int,
    closes: list[float],
    reason: str,
) -> None:
    """If new prices were adjusted for another split than the stored prices, the import stores no row."""
    import_prices(service, write(tmp_path / "prices.csv", *build_rows(2, [100, 100, 100])))
    path = write(tmp_path / "more.csv", *build_rows(first, closes))
    with pytest.raises(PriceFileError, match="import the whole history again") as caught:
        import_prices(service, path)
    assert reason in str(caught.value)
    assert execute("SELECT count(*) FROM ticks") == [(3,)]


def test_a_history_can_be_continued_and_replaced(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """An import can add days that fit, add a fall that `splits` declares no split, or replace all days."""
    import_prices(service, write(tmp_path / "prices.csv", *build_rows(2, [100, 100, 100])))
    import_prices(service, write(tmp_path / "more.csv", *build_rows(4, [100.04, 101])))
    crash = write(tmp_path / "crash.csv", *build_rows(6, [25]))
    import_prices(service, crash, parse_options(splits=["AAPL:2013-01-06:1:1"]))
    assert execute("SELECT price FROM ticks ORDER BY timestamp") == [
        (100,),
        (100,),
        (Decimal("100.04"),),
        (101,),
        (25,),
    ]
    whole = write(tmp_path / "whole.csv", *build_rows(2, [25, 25, 25.01, 25.25, 25]))
    assert import_prices(service, whole).changed == 5


def test_a_currency_is_stored_with_its_symbol(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """The import stores a symbol's currency and refuses another one unless it replaces the whole history."""
    path = tmp_path / "prices.csv"

    def rows(first: int, currency: str) -> Path:
        lines = [f"{line},{currency}" for line in build_rows(first, [46, 46], "LLOY.L")]
        path.write_text("\n".join([f"{HEADER},Currency", *lines]))
        return path

    import_prices(service, rows(2, "GBp"))
    assert service.get_symbol_currencies() == {"LLOY.L": "GBX"}
    with pytest.raises(PriceFileError, match=r"LLOY\.L is stored in GBX, and these files have it in GBP"):
        import_prices(service, rows(3, "GBP"))
    import_prices(service, rows(3, "GBX"))
    path.write_text(
        "\n".join([f"{HEADER},Currency", *(f"{line},GBP" for line in build_rows(2, [1, 1, 1], "LLOY.L"))])
    )
    import_prices(service, path)
    assert service.get_symbol_currencies() == {"LLOY.L": "GBP"}


def test_a_folder_is_imported_idempotently(
    service: EnhancedDatabaseService, execute: Execute, tmp_path: Path
) -> None:
    """A folder with symbols of several markets is imported, and a second import changes no row."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for symbol in ("7203.T", "^GSPC", "BRK_A", "M&M"):
        (folder / f"{symbol}.csv").write_text(
            f"{HEADER}\n" + "\n".join(build_rows(2, [100, 101, 102], symbol))
        )
    assert import_prices(service, folder).changed == 12
    assert import_prices(service, folder).changed == 0
    symbols = {symbol for (symbol,) in execute("SELECT symbol FROM ticks")}
    assert symbols == {"7203.T", "BRK_A", "M&M", "^GSPC"}


def test_many_files_share_one_progress(service: EnhancedDatabaseService, tmp_path: Path) -> None:
    """An import of 500 files reports the stages of reading and loading once, each with a constant total."""
    for n in range(500):
        (tmp_path / f"S{n:03}.csv").write_text("Date,Open,High,Low,Close,Volume\n2024-03-01,1,2,1,2,5\n")
    stages: dict[str, list[tuple[int, int]]] = {}
    result = import_prices(
        service,
        tmp_path,
        progress=lambda stage, done, total: stages.setdefault(stage, []).append((done, total)),
    )
    assert (result.rows, len(result.symbols)) == (500, 500)
    assert list(stages) == ["reading prices", "loading prices"]
    assert all(steps == sorted(steps) and steps[-1][0] == steps[-1][1] for steps in stages.values())
    assert all(len({total for _, total in steps}) == 1 for steps in stages.values())


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `echo-markets import-prices` on the test's database."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("ENABLE_REDIS_CACHE", "false")
    return lambda *arguments, **options: CliRunner().invoke(
        main, ["import-prices", *map(str, arguments)], **options
    )


def test_the_command_names_file_line_and_reason(run: Callable[..., Result], tmp_path: Path) -> None:
    """An invalid row makes the exit status 2; --skip-invalid loads the other rows and counts each reason."""
    path = write(
        tmp_path / "prices.csv", row(2), "AAPL,2013-01-03,0,1,1,1,1", "AAPL,2013-01-04,0,1,1,1,1", "bad"
    )
    refused = run(path)
    assert refused.exit_code == 2
    assert f"error: {path}:3: open '0' is not a price above 0" in refused.output
    skipped = run("--skip-invalid", path)
    assert skipped.exit_code == 0, skipped.output
    assert f"INVALID, skipped: 2 x open is no price, first {path}:3: open '0'" in skipped.output
    assert f"INVALID, skipped: 1 x wrong number of fields, first {path}:5: 1 fields" in skipped.output
    assert "1 days of 1 symbols read, 1 new or changed, 3 invalid rows skipped, 0 repeated" in skipped.output


def test_the_command_prints_the_detected_format(
    run: Callable[..., Result], execute: Execute, tmp_path: Path
) -> None:
    """The command prints the detected format; --dry-run adds the first rows and needs no database."""
    path = tmp_path / "AAPL.csv"
    path.write_text(
        "Date,Open,High,Low,Close,Adj Close,Volume\n"
        + "".join(f"2013-01-{n:02},4,6,2,4,2,9\n" for n in range(2, 9))
    )
    dry = run("--dry-run", path, env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.splitlines() == [
        f"{path}: utf-8, comma, header on line 1, decimal point",
        "  symbol: AAPL, from the file's name",
        "  date: 'Date' as YYYY-MM-DD",
        "  prices: open 'Open', high 'High', low 'Low', close 'Close'",
        "  adjusted by 'Adj Close'",
        "  volume: 'Volume'",
        "rows: 7 days of AAPL, from 2013-01-02 to 2013-01-08",
        "symbol       day                  open           high            low          close         volume",
        *(
            f"AAPL         2013-01-{n:02}" + "".join(f"{figure:15}" for figure in (2, 3, 1, 2, 9))
            for n in range(2, 7)
        ),
        "nothing was loaded: --dry-run",
    ]
    assert execute("SELECT count(*) FROM ticks") == [(0,)]
    loaded = run(path)
    assert loaded.stdout.splitlines()[:7] == dry.stdout.splitlines()[:7]
    assert "7 days of 1 symbols read, 7 new or changed" in loaded.stdout
    assert execute("SELECT count(*) FROM ticks") == [(7,)]


def test_the_command_reads_standard_input(run: Callable[..., Result], execute: Execute) -> None:
    """--symbol and --columns replace the file name and the header, which standard input lacks."""
    rows = "20130102 00:00;1000000;1010000;990000;1005000;5\n"
    result = run(
        "-", "--symbol", "spy", "--columns", "date,open,high,low,close,volume", "--scale", 10_000, input=rows
    )
    assert result.exit_code == 0, result.output
    assert execute("SELECT symbol, price, low FROM ticks") == [("SPY", Decimal("100.5"), 99)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name the FILE to load, or give --demo"),
        (("--demo", "x.csv"), "name the FILE to load, or give --demo"),
        (("missing.csv",), "missing.csv does not exist"),
        (("x.csv", "--split", "AAPL"), "--split is 'AAPL'; give SYMBOL"),
        (("x.csv", "--timezone", "Nowhere"), "--timezone is 'Nowhere'"),
        (("x.csv", "--decimal", "x"), "'x' is not one of '.', ','"),
    ],
)
def test_wrong_arguments_are_refused(
    run: Callable[..., Result], arguments: tuple[str, ...], reason: str
) -> None:
    """Invalid arguments print the reason and make the exit status 2."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert reason in result.output


def test_help_lists_columns_and_options(run: Callable[..., Result]) -> None:
    """`--help` lists the known column names and the options."""
    text = " ".join(run("--help").output.split())
    for word in (
        "Close/Last",
        "Shares Traded",
        "Security",
        "trade_date",
        "--split SYMBOL:DAY:NEW:OLD",
        "--dry-run",
    ):
        assert word in text


def test_reading_returns_the_symbols(tmp_path: Path) -> None:
    """`read_prices` returns the file's symbols before any row is loaded."""
    path = write(tmp_path / "prices.csv", row(2), row(3))
    reading = read_prices(path, parse_options(symbol="X"))
    assert reading.table.symbols == ("X",)
