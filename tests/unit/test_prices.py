"""Reading price files and building ticks, without a database."""

import gzip
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from core.errors import PriceFileError
from core.simulation.bars import build_ticks
from core.simulation.price_file import BATCH_LINES
from core.simulation.price_table import CLOSE, PriceTable
from core.simulation.prices import read_prices

HEADER = "Ticker,Date,Open,High,Low,Close,Volume,Adj Close"
ROW = "AAPL,2013-02-28,100,110,90,105,1000,105"


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    """Write a price file."""
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


def read(path: Path, *lines: str, end: str = "\n") -> PriceTable:
    """Read a file with these lines."""
    return read_prices(write(path / "prices.csv", *lines, end=end))


def day_of(table: PriceTable, row: int) -> date:
    """Return the day of a row."""
    return date.fromordinal(int(table.days[row]))


def fail(path: Path, *lines: str) -> str:
    """Return why a file with these lines is refused."""
    with pytest.raises(PriceFileError) as caught:
        read(path, *lines)
    return str(caught.value)


def test_the_shipped_history_is_read_whole(repository: Path) -> None:
    """It has 12,154 rows of five symbols, AAPL 3,270 days from 2000-03-01 to 2013-03-01."""
    table = read_prices(repository / "data" / "market_history.csv.gz")
    assert table.symbols == ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    assert len(table) == 12_154
    apple = table.rows_of(0)
    assert apple.stop - apple.start == 3_270
    assert (day_of(table, apple.start), day_of(table, apple.stop - 1)) == (
        date(2000, 3, 1),
        date(2013, 3, 1),
    )


def test_a_split_is_not_a_crash(repository: Path) -> None:
    """AAPL's two for one of 2005-02-28 moves the adjusted close by less than 5 %."""
    table = read_prices(repository / "data" / "market_history.csv.gz")
    row = table.days[table.rows_of(0)].tolist().index(date(2005, 2, 28).toordinal())
    before, after = table.bars[row - 1 : row + 1, CLOSE].tolist()
    assert abs(after / before - 1) < 0.05


def test_all_prices_are_scaled_by_the_adjusted_close(tmp_path: Path) -> None:
    """A quarter of the close makes a quarter of open, high and low."""
    table = read(tmp_path, HEADER, "AAPL,2013-02-28,100,110,90,80,1000,20")
    assert table.bars.tolist() == [[250_000, 275_000, 225_000, 200_000]]


def test_without_an_adjusted_close_prices_are_as_given(tmp_path: Path) -> None:
    """The column is optional."""
    table = read(tmp_path, HEADER.removesuffix(",Adj Close"), ROW.removesuffix(",105"))
    assert table.bars.tolist() == [[1_000_000, 1_100_000, 900_000, 1_050_000]]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("ticker,DATE,Open,high,LOW,Close,volume,adj_close", ROW),
        ("Symbol,Date,Open,High,Low,Close,Volume,Adjusted Close", ROW),
        ("Volume,Adj. Close,Close,Low,High,Open,Date,Ticker", "1000,105,105,90,110,100,2013-02-28,AAPL"),
        ("Ticker,note,Date,Open,High,Low,Close,Volume,Adj Close,x", ROW.replace(",", ",n,", 1) + ",9"),
        ("\ufeff" + HEADER, ROW),
        (
            f'"{HEADER.replace(",", chr(34) + "," + chr(34))}"',
            f'"{ROW.replace(",", chr(34) + "," + chr(34))}"',
        ),
        (HEADER, " AAPL , 2013-02-28 ,100.0,1.1e2,90, 105,1000.0,105"),
    ],
)
def test_a_file_may_be_written_in_many_ways(tmp_path: Path, header: str, row: str) -> None:
    """Case, synonyms, order, further columns, a byte order mark, quotes and spaces do not matter."""
    table = read(tmp_path, header, row)
    assert table.symbols == ("AAPL",)
    assert table.bars.tolist() == [[1_000_000, 1_100_000, 900_000, 1_050_000]]
    assert table.volumes.tolist() == [1_000]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_will_do(tmp_path: Path, end: str) -> None:
    """Also on a file with blank lines and the empty rows of a spreadsheet."""
    table = read(tmp_path, HEADER, ROW, "", ",,,,,,,", ROW.replace("28", "27"), "", "  ", end=end)
    assert len(table) == 2


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    """A file cut by an editor reads the same."""
    path = tmp_path / "prices.csv"
    path.write_text(f"{HEADER}\n{ROW}")
    assert len(read_prices(path)) == 1


def test_a_file_with_a_header_only_has_no_rows(tmp_path: Path) -> None:
    """It is no mistake of a row."""
    assert len(read(tmp_path, HEADER)) == 0


def test_the_last_of_equal_days_wins(tmp_path: Path) -> None:
    """Rows are ordered by symbol and day, wherever they stand in the file."""
    later = ROW.replace(",105,1000,105", ",106,1000,106")
    table = read(tmp_path, HEADER, "MSFT" + ROW[4:], ROW, ROW.replace("28", "27"), later)
    assert table.symbols == ("AAPL", "MSFT")
    assert [day_of(table, row).day for row in range(3)] == [27, 28, 28]
    assert table.bars[:, CLOSE].tolist() == [1_050_000, 1_060_000, 1_050_000]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("aapl,2013-02-28,100,110,90,105,1000,105", "symbol 'aapl'"),
        ("'; DROP,2013-02-28,100,110,90,105,1000,105", 'symbol "\'; DROP"'),
        ("AAPL AAPL,2013-02-28,100,110,90,105,1000,105", "symbol 'AAPL AAPL'"),
        (",2013-02-28,100,110,90,105,1000,105", "symbol ''"),
        ("AAPL,28.02.2013,100,110,90,105,1000,105", "date '28.02.2013'"),
        ("AAPL,2013-02-30,100,110,90,105,1000,105", "date '2013-02-30'"),
        ("AAPL,20130228,100,110,90,105,1000,105", "date '20130228'"),
        ("AAPL,0001-01-01,100,110,90,105,1000,105", "date '0001-01-01' is before 1900-01-01"),
        ("AAPL,2999-01-01,100,110,90,105,1000,105", "date '2999-01-01' is no trading day that has closed"),
        ("AAPL,2013-02-28,,110,90,105,1000,105", "open ''"),
        ("AAPL,2013-02-28,100,abc,90,105,1000,105", "high 'abc'"),
        ("AAPL,2013-02-28,100,110,-90,105,1000,105", "low '-90'"),
        ("AAPL,2013-02-28,100,110,90,nan,1000,105", "close 'nan'"),
        ("AAPL,2013-02-28,100,110,90,0,1000,105", "close '0'"),
        ("AAPL,2013-02-28,inf,110,90,105,1000,105", "open 'inf'"),
        ("AAPL,2013-02-28,1e300,110,90,105,1000,105", "open '1e300'"),
        ("AAPL,2013-02-28,1_000,110,90,105,1000,105", "open '1_000'"),
        ("AAPL,2013-02-28,100,110,90,105,1000,\u0661", "adjusted close '\u0661'"),
        ("AAPL,2013-02-28,100,90,110,105,1000,105", "low 110 is above high 90"),
        ("AAPL,2013-02-28,100,110,90,105,-1,105", "volume '-1'"),
        ("AAPL,2013-02-28,100,110,90,105,1.5,105", "volume '1.5'"),
        ("AAPL,2013-02-28,100,110,90,105,1e30,105", "volume '1e30'"),
        ("AAPL,2013-02-28,100,110,90,105,,105", "volume ''"),
        ("AAPL,2013-02-28,100,110,90,105,1000,0.00001", "adjusted close 0.00001 puts a price below"),
        ("AAPL,2013-02-28,100,110,90,105,1000", "7 fields where the header has 8"),
        ("AAPL,2013-02-28,1,100,110,90,105,1000,105", "9 fields where the header has 8"),
        ("hello", "1 fields where the header has 8"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(tmp_path: Path, row: str, reason: str) -> None:
    """Blank lines before it count, as an editor counts them."""
    message = fail(tmp_path, HEADER, ROW, "", row, ROW)
    assert message.startswith(f"{tmp_path / 'prices.csv'}:4: {reason}")


def test_the_first_malformed_row_is_named(tmp_path: Path) -> None:
    """Whatever is wrong with the rows after it, in a file of several batches."""
    rows = [ROW] * (BATCH_LINES + 10)
    rows[BATCH_LINES + 2], rows[BATCH_LINES + 5] = "AAPL,x" + ROW[15:], "short"
    assert f":{BATCH_LINES + 4}: date 'x'" in fail(tmp_path, HEADER, *rows)


def test_lines_inside_quotes_count(tmp_path: Path) -> None:
    """A note over three lines moves the rows after it, also where a batch ends in it."""
    noted = ROW + ',"one\ntwo\nthree"'
    lines = [HEADER + ",note", *[ROW + ",-"] * (BATCH_LINES - 1), noted, "bad"]
    assert f":{BATCH_LINES + 4}: 1 fields" in fail(tmp_path, *lines)


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path) -> None:
    """It would swallow every row after it."""
    message = fail(tmp_path, HEADER, ROW, '"' + ROW, *[ROW] * 5)
    assert ":3: a quote that is opened here is not closed on the line" in message


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("Ticker,Date,Open,High,Low,Close,Adj Close", "no column volume; the columns are 'Ticker', 'Date'"),
        ("Date;Open;High;Low;Close;Volume", "no column symbol, date, open, high, low, close, volume"),
        (HEADER + ",Symbol", "the columns 'Ticker' and 'Symbol' both mean symbol"),
    ],
)
def test_a_wrong_header_is_explained(tmp_path: Path, header: str, missing: str) -> None:
    """The columns that are missing and those that were found are named."""
    assert f":1: {missing}" in fail(tmp_path, header, ROW)


PLAIN = f"{HEADER}\n{ROW}\n".encode()
ZIPPED = gzip.compress(PLAIN + f"{ROW}\n".encode() * 5_000, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("prices.csv", b"", "is empty"),
        ("prices.csv.gz", b"", "is empty"),
        ("prices.csv.gz", PLAIN, "is not gzip although its name ends in .gz"),
        ("prices.csv.gz", ZIPPED[:-20], "cannot be read"),
        ("prices.csv.gz", ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:], "cannot be read"),
        ("prices.csv.gz", ZIPPED[:10] + b"\xff" * 50, "cannot be read"),
        ("prices.csv", PLAIN.decode().encode("utf-16"), "is not UTF-8 text"),
        ("prices.csv", PLAIN + b"\xff\xfe", "is not UTF-8 text"),
        ("prices.csv", PLAIN + b'"' + b"x" * 200_000, "no CSV records from here on"),
    ],
)
def test_an_unreadable_file_is_explained(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """Each with its own reason, and none with a codec's or the operating system's traceback."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PriceFileError, match=reason) as caught:
        read_prices(tmp_path / name)
    assert name in str(caught.value)


def test_a_path_without_a_file_is_explained(tmp_path: Path) -> None:
    """Nothing there, and a folder."""
    with pytest.raises(PriceFileError, match=r"missing\.csv does not exist"):
        read_prices(tmp_path / "missing.csv")
    with pytest.raises(PriceFileError, match="is a directory"):
        read_prices(tmp_path)


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    """A compressed file may be called anything."""
    path = tmp_path / "prices.csv"
    path.write_bytes(gzip.compress(f"{HEADER}\n{ROW}\n".encode()))
    assert len(read_prices(path)) == 1


def test_today_is_read_once_it_has_closed(tmp_path: Path) -> None:
    """A tick never lies in the future."""
    path = write(tmp_path / "prices.csv", HEADER, ROW)
    with pytest.raises(PriceFileError, match="no trading day that has closed yet"):
        read_prices(path, now=datetime(2013, 2, 28, 20, 59, tzinfo=UTC))
    assert len(read_prices(path, now=datetime(2013, 2, 28, 21, 0, tzinfo=UTC))) == 1


def days_with_closes(*closes: int) -> PriceTable:
    """Return days with these closes in 1/10000."""
    numbers = np.arange(len(closes), dtype=np.int32)
    bars = np.repeat(np.array([closes], np.int64).T, 4, axis=1)
    return PriceTable(("AAPL",), numbers * 0, numbers + 735_000, bars, np.arange(len(closes)))


def test_a_tick_has_the_change_against_the_day_before() -> None:
    """In money and in percent; the first day of a symbol has none."""
    first, second = build_ticks(days_with_closes(1_000_000, 1_072_500), "AAPL", ())
    assert (first.change_24h, first.change_percent_24h) == (None, None)
    assert (second.change_24h, second.change_percent_24h) == (Decimal("7.25"), Decimal("7.25"))
    assert second.price == second.open == second.high == second.low == Decimal("107.25")
    assert (second.bid, second.ask, second.volume) == (None, None, 1)
    assert second.timestamp == datetime(2013, 5, 13, 21, 0, tzinfo=UTC)


def test_days_before_the_file_count() -> None:
    """A part of a history gets the same ticks as the whole."""
    closes = [1_000_000 + 7_919 * (n * n % 13) for n in range(60)]
    whole = list(build_ticks(days_with_closes(*closes), "AAPL", ()))
    part = days_with_closes(*closes).select(np.arange(40, 60))
    assert list(build_ticks(part, "AAPL", closes[20:40])) == whole[40:]


def test_volatility_needs_twenty_returns() -> None:
    """It is the annualised deviation of the last twenty log returns in percent."""
    closes = [1_000_000, 1_010_000] * 11
    ticks = list(build_ticks(days_with_closes(*closes), "AAPL", ()))
    assert [tick.volatility for tick in ticks[:20]] == [None] * 20
    returns = np.diff(np.log(np.array(closes[:21])))
    expected = float(returns.std(ddof=1) * np.sqrt(252) * 100)
    assert float(ticks[20].volatility or 0) == pytest.approx(expected, abs=1e-4)


def test_no_days_make_no_ticks() -> None:
    """A symbol whose rows were all invalid is left out."""
    assert list(build_ticks(PriceTable.empty(), "AAPL", ())) == []
