"""Reads rows of price files and builds ticks, without a database."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import PriceFileError
from core.price_import.daily_ticks import build_ticks
from core.price_import.reading import read_prices
from core.price_import.sources import BLOCK_BYTES
from core.price_import.table import TYPES, PriceTable
from core.simulation.trading_hours import close_of, open_of
from tests.price_files import list_days, list_rows, read, refuse

HEADER = "Ticker,Date,Open,High,Low,Close,Volume,Adj Close"
ROW = "AAPL,2013-02-28,100,110,90,105,1000,105"


def join_lines(*rows: str, end: str = "\n") -> str:
    """Return the text of a file with these lines."""
    return end.join([*rows, ""])


def read_table(path: Path, *rows: str) -> PriceTable:
    """Read a file with these lines."""
    return read(path / "prices.csv", join_lines(*rows)).table


def refuse_lines(path: Path, *rows: str) -> str:
    """Return the message with which a file with these lines is refused."""
    return refuse(path / "prices.csv", join_lines(*rows))


def test_the_shipped_history_is_read_whole(repository: Path) -> None:
    """data/market_history.csv.gz has 12,154 rows of five symbols, of which AAPL has 3,270."""
    table = read_prices(repository / "data" / "market_history.csv.gz").table
    assert table.symbols == ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    assert len(table) == 12_154
    apple = table.rows_of(0)
    assert apple.stop - apple.start == 3_270
    days = [date.fromordinal(day) for day in table["day"][apple].tolist()]
    assert (days[0], days[-1]) == (date(2000, 3, 1), date(2013, 3, 1))


def test_a_split_does_not_move_the_adjusted_close(repository: Path) -> None:
    """The 2:1 split of AAPL on 2005-02-28 moves the adjusted close by less than 5 %."""
    table = read_prices(repository / "data" / "market_history.csv.gz").table
    row = table["day"][table.rows_of(0)].tolist().index(date(2005, 2, 28).toordinal())
    before, after = table["close"][row - 1 : row + 1].tolist()
    assert abs(after / before - 1) < 0.05


def test_all_prices_are_scaled_by_the_adjusted_close(tmp_path: Path) -> None:
    """If the adjusted close is a quarter of the close, all prices are divided by four; the volume is not."""
    table = read_table(tmp_path, HEADER, "AAPL,2013-02-28,100,110,90,92,1000,23")
    assert list_days(table) == [("2013-02-28", 25, 27.5, 22.5, 23, 1000)]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("ticker,DATE,Open,high,LOW,Close,volume,adj_close", ROW),
        ("Volume,Adj. Close,Close,Low,High,Open,Date,Ticker", "1000,105,105,90,110,100,2013-02-28,AAPL"),
        ("Ticker,note,Date,Open,High,Low,Close,Volume,Adj Close,x", ROW.replace(",", ",n,", 1) + ",9"),
        ("\ufeff" + HEADER, ROW),
        (HEADER.removesuffix(",Adj Close"), ROW.removesuffix(",105")),
        (
            f'"{HEADER.replace(",", chr(34) + "," + chr(34))}"',
            f'"{ROW.replace(",", chr(34) + "," + chr(34))}"',
        ),
        (HEADER, " AAPL , 2013-02-28 ,100.0,1.1e2,90, 105,1000.0,105"),
    ],
)
def test_a_file_may_be_written_in_many_ways(tmp_path: Path, header: str, row: str) -> None:
    """Case and order of columns, further columns, a byte order mark, quotes and spaces do not matter."""
    assert list_rows(read_table(tmp_path, header, row)) == [("AAPL", "2013-02-28", 100, 110, 90, 105, 1000)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_is_accepted(tmp_path: Path, end: str) -> None:
    """Files with LF, CRLF or CR are read, also with blank lines and rows of empty cells."""
    content = join_lines(HEADER, ROW, "", ",,,,,,,", ROW.replace("28", "27"), "", "  ", end=end)
    assert len(read(tmp_path / "prices.csv", content).table) == 2
    assert len(read(tmp_path / "prices.csv", content.rstrip()).table) == 2


def test_rows_are_sorted_by_symbol_and_day(tmp_path: Path) -> None:
    """The table is sorted by symbol and day, and equal rows count once."""
    table = read_table(tmp_path, HEADER, "MSFT" + ROW[4:], ROW, ROW.replace("28", "27"), ROW)
    assert [row[:2] for row in list_rows(table)] == [
        ("AAPL", "2013-02-27"),
        ("AAPL", "2013-02-28"),
        ("MSFT", "2013-02-28"),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("'; DROP,2013-02-28,100,110,90,105,1000,105", 'symbol "\'; DROP"'),
        ("AAPL AAPL,2013-02-28,100,110,90,105,1000,105", "symbol 'AAPL AAPL'"),
        (",2013-02-28,100,110,90,105,1000,105", "symbol ''"),
        ("AAPL,28.02.2013,100,110,90,105,1000,105", "date '28.02.2013' is not a day as YYYY-MM-DD"),
        ("AAPL,2013-02-30,100,110,90,105,1000,105", "date '2013-02-30'"),
        ("AAPL,20130228,100,110,90,105,1000,105", "date '20130228'"),
        ("AAPL,0001-01-01,100,110,90,105,1000,105", "date '0001-01-01' is before 1900-01-01"),
        ("AAPL,2999-01-01,100,110,90,105,1000,105", "date '2999-01-01' is no trading day that has closed"),
        ("AAPL,2013-02-28,100,abc,90,105,1000,105", "high 'abc'"),
        ("AAPL,2013-02-28,100,110,-90,105,1000,105", "low '-90'"),
        ("AAPL,2013-02-28,100,110,90,nan,1000,105", "close 'nan'"),
        ("AAPL,2013-02-28,100,110,90,0,1000,105", "close '0'"),
        ("AAPL,2013-02-28,inf,110,90,105,1000,105", "open 'inf'"),
        ("AAPL,2013-02-28,1e300,110,90,105,1000,105", "open '1e300'"),
        ("AAPL,2013-02-28,1_000,110,90,105,1000,105", "open '1_000'"),
        ("AAPL,2013-02-28,100,110,90,105,1000,\u0661", "adjusted close '\u0661'"),
        ("AAPL,2013-02-28,100,110,90,105,1000,", "adjusted close ''"),
        ("AAPL,2013-02-28,100,90,110,105,1000,105", "low 110 is above high 90"),
        ("AAPL,2013-02-28,120,110,90,105,1000,105", "open 120 is not between low 90 and high 110"),
        ("AAPL,2013-02-28,100,110,90,105,-1,105", "volume '-1'"),
        ("AAPL,2013-02-28,100,110,90,105,1e30,105", "volume '1e30'"),
        ("AAPL,2013-02-28,100,110,90,105,many,105", "volume 'many'"),
        ("AAPL,2013-02-28,100,110,90,105,1000,1e-12", "adjusted or scaled, a price is below 0.0000000001"),
        ("AAPL,2013-02-28,100,110,90,105,1000", "7 fields where the header has 8"),
        ("AAPL,2013-02-28,1,100,110,90,105,1000,105", "9 fields where the header has 8"),
        ("hello", "1 fields where the header has 8"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    """The error has the line number of the malformed row, counted with blank lines."""
    assert refuse_lines(tmp_path, HEADER, ROW, "", row, ROW).startswith(f"prices.csv:4: {reason}")


def test_the_first_malformed_row_is_named(tmp_path: Path) -> None:
    """In a file of several blocks with two malformed rows, the error names the first one."""
    rows = [f"S{n}{ROW[4:]}" for n in range(3 * BLOCK_BYTES // len(ROW))]
    place = len(rows) - 100
    rows[place], rows[place + 3] = "AAPL,x" + ROW[15:], "short"
    assert refuse_lines(tmp_path, HEADER, *rows).startswith(f"prices.csv:{place + 2}: date 'x'")
    rows[place] = "short"
    assert refuse_lines(tmp_path, HEADER, *rows).startswith(f"prices.csv:{place + 2}: 1 fields")


def test_lines_inside_quotes_count(tmp_path: Path) -> None:
    """A quoted cell of three lines counts as three lines in the line number, also at the end of a block."""
    rows = [f'S{n}{ROW[4:]},"one\ntwo\nthree"' for n in range(2 * BLOCK_BYTES // len(ROW))]
    message = refuse_lines(tmp_path, HEADER + ",note", *rows, "AAPL,x,1,1,1,1,1,1,-")
    assert message.startswith(f"prices.csv:{3 * len(rows) + 2}: date 'x'")


@pytest.mark.parametrize("rest", [5, 50_000])
def test_an_unclosed_quote_is_refused(tmp_path: Path, rest: int) -> None:
    """The error names the line with the unclosed quote, which would hide all later rows."""
    message = refuse_lines(tmp_path, HEADER, ROW, '"' + ROW, *[ROW] * rest)
    assert message.startswith("prices.csv:3: ")
    assert "quote" in message


@pytest.mark.parametrize(
    "line",
    [
        "Total,,,,,,303,",
        "# end of file",
        "Source: somebody",
        '"Downloaded from somewhere, at some time."',
        "Average:,,1",
    ],
)
def test_notes_and_totals_are_skipped_and_reported(tmp_path: Path, line: str) -> None:
    """Notes and totals below the table are skipped and counted; a row that was cut off is refused."""
    reading = read(tmp_path / "prices.csv", join_lines(HEADER, ROW, line))
    assert len(reading.table) == 1
    assert f"skipped: 1 x notes and totals, first {tmp_path}/prices.csv:3" in "\n".join(reading.describe())
    for cut in ("AAPL,2013-0", "MAX,2013-03-0", "AA", "AAPL,2013-03-01,100,110,90"):
        assert "prices.csv:4: " in refuse_lines(tmp_path, HEADER, ROW, line, cut)


def test_a_repeated_header_is_skipped(tmp_path: Path) -> None:
    """A second header, as in two concatenated files, is skipped."""
    assert len(read_table(tmp_path, HEADER, ROW, HEADER, "MSFT" + ROW[4:])) == 2


def test_a_file_without_valid_rows_is_refused(tmp_path: Path) -> None:
    """A file without rows, or with only rows without prices, is refused; the error counts these rows."""
    assert refuse_lines(tmp_path, HEADER) == "prices.csv has no valid row; nothing was loaded"
    message = refuse_lines(tmp_path, HEADER, "AAPL,2013-02-28,,,,,,")
    assert "1 x rows without prices, first" in message


def test_today_is_read_once_it_has_closed(tmp_path: Path) -> None:
    """The row of today is skipped until trading closes at 21:00 UTC; the row of a later day is an error."""
    content = join_lines(HEADER, ROW.replace("28", "27"), ROW)
    early = datetime(2013, 2, 28, 20, 59, tzinfo=UTC)
    reading = read(tmp_path / "prices.csv", content, now=early)
    assert [day[0] for day in list_days(reading.table)] == ["2013-02-27"]
    assert reading.tally("skipped").counts == {"rows of today, which has not closed": 1}
    assert len(read(tmp_path / "prices.csv", content, now=early.replace(hour=21, minute=0)).table) == 2
    with pytest.raises(PriceFileError, match="no trading day that has closed yet"):
        read(tmp_path / "prices.csv", content, now=early.replace(day=27))


def make_days(closes: Sequence[float]) -> PriceTable:
    """Return a table of consecutive days with these closes."""
    columns = {name: np.zeros(len(closes), kind) for name, kind in TYPES.items()}
    columns["day"] += np.arange(len(closes), dtype=np.int32) + 735_000
    columns["volume"] += np.arange(len(closes))
    for name in ("open", "high", "low", "close"):
        columns[name] += closes
    return PriceTable(("AAPL",), ("prices.csv",), columns)


def test_a_tick_has_the_change_against_the_day_before() -> None:
    """A tick has the change since the previous close in money and in percent; the first tick has none."""
    first, second = build_ticks(make_days([100, 107.25]), "AAPL", ())
    assert (first.change_24h, first.change_percent_24h) == (None, None)
    assert (second.change_24h, second.change_percent_24h) == (Decimal("7.25"), Decimal("7.25"))
    assert second.price == second.open == second.high == second.low == Decimal("107.25")
    assert (second.bid, second.ask, second.volume) == (None, None, 1)
    assert second.timestamp == datetime(2013, 5, 13, 20, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "opened", "closed"),
    [
        ("2013-03-01", "14:30", "21:00"),
        ("2013-03-08", "14:30", "21:00"),
        ("2013-03-11", "13:30", "20:00"),
        ("2013-11-01", "13:30", "20:00"),
        ("2013-11-04", "14:30", "21:00"),
        ("1998-04-06", "13:30", "20:00"),
        ("2006-03-20", "14:30", "21:00"),
        ("2026-07-01", "13:30", "20:00"),
    ],
)
def test_trading_hours_follow_new_york_time(day: str, opened: str, closed: str) -> None:
    """Trading opens and closes one hour earlier in UTC during daylight saving time in New York."""
    moments = open_of(date.fromisoformat(day)), close_of(date.fromisoformat(day))
    assert [f"{moment:%Y-%m-%d %H:%M}" for moment in moments] == [f"{day} {opened}", f"{day} {closed}"]
    assert all(moment.tzinfo is UTC for moment in moments)


def test_a_change_is_against_a_close_24_hours_before() -> None:
    """After the clock change in March the last close is 23 hours old, so an earlier close is compared."""
    table = make_days([100, 110, 121, 133.1])
    table["day"][:] = [date(2013, 3, day).toordinal() for day in (8, 9, 10, 11)]
    ticks = list(build_ticks(table, "BTC-USD", ()))
    assert [tick.change_24h for tick in ticks] == [None, 10, 21, Decimal("12.1")]


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        (8, 8.0000004, "0.0000"),
        (2, 2.000001, "0.0001"),
        (2, 1.999999, "-0.0001"),
        (3, 4, "33.3333"),
        (1e-9, 1, "99999999900"),
    ],
)
def test_half_a_unit_of_percent_is_rounded_away_from_zero(before: float, after: float, percent: str) -> None:
    """The change in percent has four decimals; a half is rounded away from zero, as in the database."""
    _, tick = build_ticks(make_days([before, after]), "AAPL", ())
    assert tick.change_percent_24h == Decimal(percent)


@given(st.lists(st.integers(1, 10**13), min_size=2, max_size=20))
def test_changes_equal_exact_decimals(units: list[int]) -> None:
    """Changes computed with numpy equal those of exact decimals, with halves rounded away from zero."""
    closes = np.array(units) / 10_000
    _, *ticks = build_ticks(make_days(closes.tolist()), "AAPL", ())
    prices = [Decimal(unit).scaleb(-4) for unit in units]
    for tick, (before, after) in zip(ticks, pairwise(prices), strict=True):
        assert tick.change_24h == after - before
        exact = Fraction(after - before) * 100 / Fraction(before)
        assert tick.change_percent_24h is not None
        distance = abs(Fraction(tick.change_percent_24h) - exact)
        assert distance <= Fraction(1, 20_000)
        if distance == Fraction(1, 20_000):  # a half is rounded away from zero
            assert abs(Fraction(tick.change_percent_24h)) > abs(exact)


def test_earlier_ticks_count_for_change_and_volatility() -> None:
    """The last 20 days with the 20 ticks before them get the same ticks as in the whole history."""
    closes = [100 + 0.7919 * (n * n % 13) for n in range(60)]
    whole = list(build_ticks(make_days(closes), "AAPL", ()))
    part = make_days(closes).select(slice(40, 60))
    before = [(tick.timestamp.date(), tick.price) for tick in whole[20:40]]
    assert list(build_ticks(part, "AAPL", before)) == whole[40:]


def test_volatility_needs_twenty_returns() -> None:
    """Volatility is the annualised standard deviation of 20 log returns, in percent; before, it is None."""
    closes = [100.0, 101.0] * 11
    ticks = list(build_ticks(make_days(closes), "AAPL", ()))
    assert [tick.volatility for tick in ticks[:20]] == [None] * 20
    returns = np.diff(np.log(np.array(closes[:21])))
    expected = float(returns.std(ddof=1) * np.sqrt(252) * 100)
    assert float(ticks[20].volatility or 0) == pytest.approx(expected, abs=1e-4)


def test_a_table_without_days_gives_no_ticks() -> None:
    """A table without days gives no ticks and no error."""
    assert list(build_ticks(make_days([]), "AAPL", ())) == []
