"""Wrong values in price files are corrected with a message, or refused; they are never stored silently."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.price_import.daily_ticks import build_ticks
from core.price_import.splits import find_ratio
from tests.price_files import describe, list_days, list_rows, read, refuse

HEADER = "Ticker,Date,Open,High,Low,Close,Volume"


def write_bars(*closes: float, symbol: str = "AAPL", days: Sequence[str] = ()) -> str:
    """Return a file with one row per close, on days from 2024-03-01; open, high and low equal the close."""
    days = days or [f"2024-03-{day:02}" for day in range(1, len(closes) + 1)]
    rows = [f"{symbol},{day},{c},{c},{c},{c},5" for day, c in zip(days, closes, strict=True)]
    return "\n".join([HEADER, *rows, ""])


def read_closes(path: Path, content: str, **options: Any) -> list[float]:
    """Return the closes that are read from a file."""
    return [day[4] for day in list_days(read(path, content, **options).table)]


def test_bars_of_one_day_are_merged_in_time_order(tmp_path: Path) -> None:
    """Three bars of one day, in any order, become one: first open, last close, extremes, sum of volumes."""
    content = (
        "Date,Open,High,Low,Close,Volume\n2024-03-04 16:00,12,13,11,12.5,100\n"
        "2024-03-04 12:00,11,12,10,11,100\n2024-03-04 09:30,10,11,9,10.5,100\n"
    )
    reading = read(tmp_path / "AAPL.csv", content)
    assert list_days(reading.table) == [("2024-03-04", 10, 13, 9, 12.5, 300)]
    assert "several bars a day, up to 3: made into one, in order of time" in describe(reading)


def test_fractions_of_volumes_add_up(tmp_path: Path) -> None:
    """Volumes of 60 minutes with 0.25 coins each sum up to 15; a minute without prices is left out."""
    minutes = range(60)
    rows = "".join(f"{1_709_510_400 + 60 * n},4,5,3,4,0.25,1\n" for n in minutes)
    header = "Timestamp,Open,High,Low,Close,Volume_(BTC),Volume_(Currency)"
    content = f"{header}\n{rows}1709514000,NaN,NaN,NaN,NaN,NaN,NaN\n"
    table = read(tmp_path / "BTC-USD.csv", content).table
    assert list_days(table) == [("2024-03-04", 4, 5, 3, 4, 15)]
    assert next(build_ticks(table, "BTC-USD", ())).volume == 15


def test_a_second_row_of_a_day_is_refused(tmp_path: Path) -> None:
    """A daily file with two rows for its last day is refused: the second row is a trade, not a whole day."""
    rows = "".join(f"AAPL,2024-03-{day:02} 00:00:00,1,2,1,2,5\n" for day in range(1, 10))
    content = f"{HEADER}\n{rows}AAPL,2024-03-09 16:00:02,1,2,1,1.5,7\n"
    reason = refuse(tmp_path / "prices.csv", content)
    assert "AAPL on 2024-03-09: the rows prices.csv:10 and prices.csv:11 are both of this day" in reason


def test_a_day_in_a_daily_and_a_minute_file_is_refused(tmp_path: Path) -> None:
    """A day that a daily file and a minute file both have is refused, or its volume would count twice."""
    (tmp_path / "days.csv").write_text(f"{HEADER}\nAAPL,2024-03-04,1,2,1,2,5\n")
    minutes = "".join(f"AAPL,2024-03-04 09:3{n},1,2,1,2,5\n" for n in range(5))
    (tmp_path / "minutes.csv").write_text(f"{HEADER}\n{minutes}")
    reason = refuse(tmp_path, "")
    assert f"{tmp_path.name}/days.csv:2 and" in reason
    assert "are both of this day" in reason


@pytest.mark.parametrize(
    ("zone", "day", "opened"), [(None, "2024-03-04", 1), ("Asia/Tokyo", "2024-03-05", 2)]
)
def test_the_timezone_decides_the_day(tmp_path: Path, zone: str | None, day: str, opened: float) -> None:
    """A time belongs to its day in UTC, or to its day in the zone of --timezone."""
    rows = "AAPL,2024-03-04 13:00:00Z,1,1,1,1,5\nAAPL,2024-03-04 14:00:00Z,3,3,3,3,5\n"
    rows += "AAPL,2024-03-04 23:30:00Z,2,2,2,2,5\nAAPL,2024-03-04 23:50:00Z,3,3,3,3,5\n"
    table = read(tmp_path / "prices.csv", f"{HEADER}\n{rows}", timezone=zone).table
    days = {row[0]: row for row in list_days(table)}
    assert days[day][1] == opened
    assert days[day][4] == 3
    assert len(days) == (1 if zone is None else 2)


def test_timezone_is_refused_for_times_without_an_offset(tmp_path: Path) -> None:
    """--timezone is refused for a file whose times have no UTC offset."""
    reason = refuse(tmp_path / "prices.csv", write_bars(1, 2), timezone="Asia/Tokyo")
    assert "prices.csv:2: --timezone: '2024-03-01' names no zone" in reason


def test_days_from_sunday_to_thursday_need_a_timezone(tmp_path: Path) -> None:
    """Midnights of a week in Tokyo are Sunday to Thursday in UTC; they are refused without --timezone."""
    rows = "".join(f"7203.T,{1_709_478_000 + 86_400 * n},1,2,1,2,5\n" for n in range(5))
    reason = refuse(tmp_path / "prices.csv", f"{HEADER}\n{rows}")
    assert "its days run from Sunday to Thursday in UTC; say in which zone a day is with --timezone" in reason
    for zone, first in (("Asia/Tokyo", "2024-03-04"), ("UTC", "2024-03-03")):
        table = read(tmp_path / "prices.csv", f"{HEADER}\n{rows}", timezone=zone).table
        assert list_days(table)[0][0] == first


@pytest.mark.parametrize(
    ("days", "unit"),
    [
        ([f"2024-01-{day:02}" for day in (5, 12, 19, 26)], "week"),
        ([f"2024-{month:02}-01" for month in range(1, 7)], "month"),
        ([f"{year}-12-31" for year in range(2015, 2020)], "year"),
        ([f"2024-01-{day:02}" for day in (2, 3, 4, 5, 8, 9)], None),
        (["2024-03-01", "2024-03-04", "2024-03-15"], None),
    ],
)
def test_weekly_and_monthly_rows_cause_a_warning(tmp_path: Path, days: list[str], unit: str | None) -> None:
    """A file with one row per week, month or year causes a warning, which --strict makes an error."""
    content = write_bars(*[10.0] * len(days), days=days)
    warnings = read(tmp_path / "prices.csv", content).warnings
    if unit is None:
        assert warnings == []
        return
    assert warnings == [f"one row a {unit}, not a day: AAPL; changes are from {unit} to {unit}"]
    assert "(refused by --strict)" in refuse(tmp_path / "prices.csv", content, strict=True)


SPLIT_HEADER = HEADER + ",Split Ratio"


@pytest.mark.parametrize("ratio", ["4", "4.0", "4:1", "4-for-1", "8/2"])
def test_a_split_column_adjusts_earlier_prices(tmp_path: Path, ratio: str) -> None:
    """The four prices before a split are divided by its ratio; the volumes are not changed."""
    content = (
        f"{SPLIT_HEADER}\nAAPL,2024-03-01,100,104,96,100,5,1\nAAPL,2024-03-04,100,104,96,100,5,\n"
        f"AAPL,2024-03-05,25,26,24,25,5,{ratio}\n"
    )
    reading = read(tmp_path / "prices.csv", content)
    assert list_days(reading.table)[:2] == [
        ("2024-03-01", 25, 26, 24, 25, 5),
        ("2024-03-04", 25, 26, 24, 25, 5),
    ]
    assert reading.notes == ["AAPL:2024-03-05:4:1: prices before it are divided by 4"]
    assert reading.warnings == []


def test_prices_are_not_adjusted_twice(tmp_path: Path) -> None:
    """Prices that do not jump on the day of a listed split are already adjusted, and stay unchanged."""
    content = (
        f"{HEADER},Stock Splits\nAAPL,2024-03-01,25,26,24,25,5,0.0\nAAPL,2024-03-04,25,26,24,25,5,0.0\n"
        "AAPL,2024-03-05,25.2,26,24,25,5,4.0\n"
    )
    reading = read(tmp_path / "prices.csv", content)
    assert [day[4] for day in list_days(reading.table)] == [25, 25, 25]
    assert reading.notes == ["AAPL: already adjusted for AAPL:2024-03-05:4:1"]
    some = content + "AAPL,2024-03-06,50,52,48,50,5,0.5\n"
    reason = refuse(tmp_path / "prices.csv", some)
    assert "prices jump at AAPL:2024-03-06:1:2, but not at AAPL:2024-03-05:4:1; say which" in reason
    assert read_closes(tmp_path / "prices.csv", some, splits=["AAPL:2024-03-05:1:1"]) == [50, 50, 50, 50]


def test_an_adjusted_column_is_not_adjusted_for_splits(tmp_path: Path) -> None:
    """In a file with adjusted prices, the split column is ignored."""
    content = f"{HEADER},Adj Close,Split Ratio\nAAPL,2024-03-04,400,400,400,400,5,50,1\n"
    content += "AAPL,2024-03-05,50,50,50,50,5,25,4\n"
    reading = read(tmp_path / "prices.csv", content)
    assert [day[4] for day in list_days(reading.table)] == [50, 25]
    assert reading.notes == []


def test_a_jump_of_the_size_of_a_split_causes_a_warning(tmp_path: Path) -> None:
    """The warning has the symbol, day and ratio, and the --split options that confirm or reject the split."""
    content = write_bars(100, 100, 25)
    reading = read(tmp_path / "prices.csv", content)
    [warning] = reading.warnings
    assert warning == (
        "AAPL jumps on 2024-03-03 as in a split of 4:1; if it is one: --split AAPL:2024-03-03:4:1,"
        " if not: --split AAPL:2024-03-03:1:1"
    )
    assert [day[4] for day in list_days(reading.table)] == [100, 100, 25]
    assert "(refused by --strict)" in refuse(tmp_path / "prices.csv", content, strict=True)
    assert read_closes(tmp_path / "prices.csv", content, splits=["AAPL:2024-03-03:4:1"], strict=True) == [
        25,
        25,
        25,
    ]
    assert read_closes(tmp_path / "prices.csv", content, splits=["AAPL:2024-03-03:1:1"], strict=True) == [
        100,
        100,
        25,
    ]
    reason = refuse(tmp_path / "prices.csv", content, splits=["AAPL:2024-03-13:4:1"])
    assert "--split AAPL:2024-03-13:4:1: no row is of this symbol and day" in reason


@pytest.mark.parametrize(
    ("before", "after", "ratio"),
    [(645.57, 93.7, 7), (2213.4, 498.3, 4), (891.3, 296.07, 3), (2.5, 25.3, 0.1), (100, 62, 1.5),
     (100, 80, None),
     (100, 130, None), (100, 160, None)],
)  # fmt: skip  # one case per line would fill a page
def test_a_price_jump_is_matched_with_a_split_ratio(before: float, after: float, ratio: float | None) -> None:
    """A jump is matched with a split ratio within a tolerance, because the price also moves on that day."""
    assert find_ratio(float(np.log(before / after))) == ratio


def test_a_crash_within_the_day_is_no_split(tmp_path: Path) -> None:
    """A day that opens near the last close and then falls by 75 % causes no warning about a split."""
    content = f"{HEADER}\nAAPL,2024-03-01,100,101,99,100,5\nAAPL,2024-03-04,98,99,24,25,5\n"
    assert read(tmp_path / "prices.csv", content).warnings == []


def test_a_jump_in_adjusted_prices_is_no_split(tmp_path: Path) -> None:
    """A jump in adjusted prices causes no warning, unless the adjusted close always equals the close."""
    header = f"{HEADER},AdjClose"
    rows = "AAPL,2024-02-29,90,90,90,90,5,45\nAAPL,2024-03-01,100,101,99,100,5,{}\n"
    rows += "AAPL,2024-03-04,50,51,49,50,5,50\n"
    assert read(tmp_path / "prices.csv", f"{header}\n{rows.format(100)}").warnings == []
    useless = rows.replace(",5,45\n", ",5,90\n").format(100)
    assert "split of 2:1" in read(tmp_path / "prices.csv", f"{header}\n{useless}").warnings[0]


def test_small_prices_keep_their_digits(tmp_path: Path) -> None:
    """Ticks for prices of 0.00016 and 0.00024 have the exact prices and a change of 50 %."""
    table = read(tmp_path / "prices.csv", write_bars(0.00016, 0.00024, symbol="SHIB-USD")).table
    first, second = build_ticks(table, "SHIB-USD", ())
    assert (first.price, second.price) == (Decimal("0.00016"), Decimal("0.00024"))
    assert (second.change_24h, second.change_percent_24h) == (Decimal("0.00008"), Decimal(50))


@pytest.mark.parametrize(
    "price", ["183.90321350097656", "0.0000012345", "4.186662803811", "1.08345", "123456789.01"]
)
def test_no_price_is_rounded(tmp_path: Path, price: str) -> None:
    """A price that is not adjusted is stored with all digits of the file."""
    table = read(tmp_path / "prices.csv", f"Ticker,Date,Close\nA,2024-03-04,{price}\n").table
    assert next(build_ticks(table, "A", ())).price == Decimal(price)


def test_adjusted_prices_are_rounded(tmp_path: Path) -> None:
    """Adjusted prices have four decimal places, and prices below 0.1 have six significant digits."""
    header = f"{HEADER},Adj Close"
    rows = "A,2024-03-04,3,4,2,3,5,1\nA,2024-03-05,3,4,2,3,5,0.0001\n"
    table = read(tmp_path / "prices.csv", f"{header}\n{rows}").table
    assert list_days(table) == [
        ("2024-03-04", 1, 1.3333, 0.6667, 1, 5),
        ("2024-03-05", 0.0001, 0.000133333, 0.0000666667, 0.0001, 5),
    ]


def test_two_rows_of_a_day_are_refused(tmp_path: Path) -> None:
    """Two different rows for one day are refused, unless --where selects one; two equal rows count once."""
    content = (
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,TOTTRDQTY,TIMESTAMP\nM&M,EQ,10,11,9,10.5,100,04-MAR-2024\n"
        "M&M,BL,12,12,12,12,7,04-MAR-2024\n"
    )
    reason = refuse(tmp_path / "bhav.csv", content)
    assert reason.startswith(
        "M&M on 2024-03-04: the rows bhav.csv:2 and bhav.csv:3 differ; choose with --where"
    )
    reading = read(tmp_path / "bhav.csv", content, where=["series=EQ"])
    assert list_rows(reading.table) == [("M&M", "2024-03-04", 10, 11, 9, 10.5, 100)]
    assert "skipped: 1 x rows that --where leaves out" in describe(reading)
    both = read(tmp_path / "bhav.csv", content.replace("BL,12,12,12,12,7", "BL,10,11,9,10.5,100"))
    assert (len(both.table), both.repeated) == (1, 1)
    assert "--where colour: no such column; the columns are 'SYMBOL'" in refuse(
        tmp_path / "bhav.csv", content, where=["colour=red"]
    )
    reason = refuse(tmp_path / "bhav.csv", content, where=["series=XX"])
    assert "bhav.csv has no valid row; nothing was loaded; 2 x rows that --where leaves out" in reason
    assert reason.endswith("SERIES is 'EQ'")


def test_two_rows_of_two_files_are_refused(tmp_path: Path) -> None:
    """If two files have different rows for one day, the error has the file and line of each."""
    (tmp_path / "a.csv").write_text(write_bars(1, 2))
    (tmp_path / "b.csv").write_text(write_bars(3, days=["2024-03-02"]))
    assert f"{tmp_path.name}/a.csv:3 and {tmp_path.name}/b.csv:2 differ" in refuse(tmp_path, "")


@pytest.mark.parametrize(
    ("bar", "reason"),
    [
        ("500,101,99,10", "open 500 is not between low 99 and high 101"),
        ("100,101,99,10", "close 10 is not between low 99 and high 101"),
        ("100,101,99,102.1", "close 102.1 is not between low 99 and high 101"),
        ("100,99,101,100", "low 101 is above high 99"),
    ],
)
def test_an_impossible_bar_is_refused(tmp_path: Path, bar: str, reason: str) -> None:
    """A bar is refused if open or close is not between low and high, or if low is above high."""
    content = f"{HEADER}\nAAPL,2024-03-04,{bar},5\n"
    assert refuse(tmp_path / "prices.csv", content) == f"prices.csv:2: {reason}"


def test_a_rounding_error_widens_the_bar(tmp_path: Path) -> None:
    """If open or close is up to 1 % outside low and high, low and high are extended."""
    content = f"{HEADER}\nAAPL,2024-03-04,23.4999999,23.62,23.5,23.620001,5\n"
    reading = read(tmp_path / "prices.csv", content)
    assert list_days(reading.table) == [("2024-03-04", 23.4999999, 23.620001, 23.4999999, 23.620001, 5)]
    assert "open or close up to 1.0% outside low and high, which were widened (1 rows)" in describe(reading)


def test_a_file_has_one_currency(tmp_path: Path) -> None:
    """A file with prices in two currencies is refused, unless --where selects one of them."""
    content = "Ticker,Date,Close,Currency\nLLOY.L,2024-03-04,46.5,GBp\nLLOY.L,2024-03-05,46.5,GBp\n"
    content += "VOD.L,2024-03-04,0.7,GBP\n"
    reason = refuse(tmp_path / "prices.csv", content)
    assert reason == (
        "prices.csv:4: prices in GBP, but in GBX on line 2; a file has one currency:"
        " choose with --where Currency=GBp"
    )
    reading = read(tmp_path / "prices.csv", content, where=["currency=GBp"])
    assert reading.currencies == {"LLOY.L": "GBX"}
    assert "currency: GBX" in describe(reading)
    named = read(tmp_path / "prices.csv", "Ticker,Date,Close (EUR)\nSAP.DE,2024-03-04,1\n")
    assert named.currencies == {"SAP.DE": "EUR"}
    assert "prices in EUR and USD" in refuse(
        tmp_path / "prices.csv",
        "Ticker,Date,Open (EUR),High (USD),Low (EUR),Close (EUR)\nA,2024-03-04,1,1,1,1\n",
    )
    odd = read(tmp_path / "prices.csv", "Ticker,Date,Close,Currency\nA,2024-03-04,1,US Dollar\n")
    assert odd.currencies == {}
    assert "currency 'US Dollar' is no code, and not stored" in describe(odd)


def test_a_symbol_has_one_currency(tmp_path: Path) -> None:
    """Two files with prices of one symbol in pence and in pounds are refused."""
    header = "Ticker,Date,Close,Currency\n"
    (tmp_path / "a.csv").write_text(header + "LLOY.L,2024-03-04,46.5,GBp\n")
    (tmp_path / "b.csv").write_text(header + "LLOY.L,2024-03-05,0.47,GBP\n")
    assert "b.csv: LLOY.L in GBP, but another file has it in GBX" in refuse(tmp_path, "")
    (tmp_path / "b.csv").write_text(header + "VOD.L,2024-03-05,0.7,GBP\n")
    assert read(tmp_path, "").currencies == {"LLOY.L": "GBX", "VOD.L": "GBP"}


def test_prices_times_ten_thousand_need_the_scale_option(tmp_path: Path) -> None:
    """Prices times 10,000, as LEAN writes them, are refused until --scale decides."""
    content = "20240304 00:00,1000000,1010000,990000,1005000,5\n"
    options = {"columns": ["date,open,high,low,close,volume"], "symbol": "A"}
    assert "prices.csv:1: no header" in refuse(tmp_path / "prices.csv", content)
    assert "say so with --scale 10000, or --scale 1" in refuse(tmp_path / "prices.csv", content, **options)
    assert read_closes(tmp_path / "prices.csv", content, scale=10_000.0, **options) == [100.5]
    assert read_closes(tmp_path / "prices.csv", content, scale=1.0, **options) == [1_005_000]


def test_a_suspended_day_is_skipped(tmp_path: Path) -> None:
    """A row with zeros except for the close is a suspended day and is skipped; a single zero is an error."""
    content = f"{HEADER}\nA,2024-03-04,0,0,0,10,0\nA,2024-03-05,10,11,9,10,5\n"
    reading = read(tmp_path / "prices.csv", content)
    assert [day[0] for day in list_days(reading.table)] == ["2024-03-05"]
    assert "open '0' is not a price" in refuse(
        tmp_path / "prices.csv", content + "A,2024-03-06,0,11,9,10,5\n"
    )
