"""Published formats of price files: the meaning of each column, date and number."""

# ruff: noqa: E501, ISC004  # a line of a file stays on one line; a file is several adjacent strings

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidInput
from core.price_import.numbers_and_dates import find_date_forms, parse_days, to_column
from core.price_import.options import parse_options, parse_split
from core.price_import.vocabulary import guess_symbol, parse_name
from tests.price_files import AS_GIVEN, BARS, DAYS, describe, list_days, list_rows, read, refuse, write_rows

COMPACT = tuple(day.replace("-", "") for day in DAYS)
AMERICAN = tuple(f"{day[5:7]}/{day[8:]}/{day[:4]}" for day in DAYS)
NAMED = ("Mar 01, 2024", "Mar 04, 2024", "Mar 15, 2024")
INDIAN = ("01-MAR-2024", "04-MAR-2024", "15-MAR-2024")
DOTTED = tuple(day.replace("-", ".") for day in DAYS)
ADJUSTED = [(day, o / 2, h / 2, low / 2, c / 2, v) for day, (o, h, low, c, v) in zip(DAYS, BARS, strict=True)]
OHLCV = "{d},{o},{h},{l},{c},{v}"

# File name, content, symbol, expected rows, options.
Case = tuple[str, str | bytes, str, list[tuple[Any, ...]], Mapping[str, Any]]
FILES: dict[str, Case] = {
    "yahoo web": (
        "AAPL.csv",
        write_rows("Date,Open,High,Low,Close,Adj Close,Volume", "{d},{o:.6f},{h:.6f},{l:.6f},{c:.6f},{a:.6f},{v}")
        + "2024-03-18,null,null,null,null,null,null\n",
        "AAPL",
        ADJUSTED,
        {},
    ),
    "yahoo page": (
        "page.tsv",
        "Date\tOpen\tHigh\tLow\tClose Close price adjusted for splits.\tAdj Close**\tVolume\n"
        "Mar 15, 2024\t12.00\t13.00\t11.00\t12.50\t6.25\t102\nMar 12, 2024\t0.24 Dividend\n"
        "Mar 4, 2024\t11\t12\t10\t11.5\t5.75\t101\nMar 1, 2024\t10\t11\t9\t10.5\t5.25\t100\n",
        "AAPL",
        ADJUSTED,
        {"symbol": "aapl"},
    ),
    "yfinance, one line": (
        "AAPL.csv",
        write_rows(
            "Date,Open,High,Low,Close,Volume,Dividends,Stock Splits",
            "{d} 00:00:00-05:00,{o},{h},{l},{c},{v},0.0,0.0",
        ),
        "AAPL",
        AS_GIVEN,
        {},
    ),
    "yfinance, three lines": (
        "download.csv",
        "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\n"
        + write_rows("Date,,,,,", "{d},{c},{h},{l},{o},{v}"),
        "AAPL",
        AS_GIVEN,
        {},
    ),
    "yfinance, two lines": (
        "download.csv",
        ",Adj Close,Close,High,Low,Open,Volume\n" + write_rows(",LOW,LOW,LOW,LOW,LOW,LOW", "{d},{a},{c},{h},{l},{o},{v}"),
        "LOW",
        ADJUSTED,
        {},
    ),
    "yfinance by ticker": (
        "download.csv",
        "Ticker,7203.T,7203.T,7203.T,7203.T,7203.T\nPrice,Open,High,Low,Close,Volume\n"
        + write_rows("Date,,,,,", "{d},{o},{h},{l},{c},{v}"),
        "7203.T",
        AS_GIVEN,
        {},
    ),
    "yfinance, names put together": (
        "download.csv",
        write_rows("Date,\"('Open', 'AAPL')\",\"('High', 'AAPL')\",\"('Low', 'AAPL')\",\"('Close', 'AAPL')\"", "{d},{o},{h},{l},{c}"),
        "AAPL",
        [(*day[:5], 0) for day in AS_GIVEN],
        {},
    ),
    "stooq bulk": (
        "aapl.us.txt",
        write_rows(
            "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
            "AAPL.US,D,{d},000000,{o},{h},{l},{c},{v},0",
            COMPACT,
        ),
        "AAPL.US",
        AS_GIVEN,
        {},
    ),
    "stooq daily": ("aapl_us_d.csv", write_rows("Date,Open,High,Low,Close,Volume", OHLCV), "AAPL", AS_GIVEN, {}),
    "alpha vantage": (
        "daily_adjusted_IBM.csv",
        write_rows(
            "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient",
            "{d},{o},{h},{l},{c},{a},{v},0.0000,1.0",
        ),
        "IBM",
        ADJUSTED,
        {},
    ),
    "alpha vantage, numbered": (
        "IBM.csv",
        write_rows("date,1. open,2. high,3. low,4. close,5. volume", OHLCV),
        "IBM",
        AS_GIVEN,
        {},
    ),
    "nasdaq": (
        "HistoricalData_1709510400000.csv",
        write_rows("Date,Close/Last,Volume,Open,High,Low", "{d},${c},{v},${o},${h},${l}", AMERICAN),
        "AAPL",
        AS_GIVEN,
        {"symbol": "AAPL"},
    ),
    "investing.com": (
        "AAPL Historical Data.csv",
        "\ufeff"
        + write_rows(
            '"Date","Price","Open","High","Low","Vol.","Change %"',
            '"{d}","1,0{c:04.1f}0","1,0{o}.00","1,0{h}.00","1,0{l:02}.00","{v}.21M","-0.28%"',
            NAMED,
        ),
        "AAPL",
        [(day, 1000 + o, 1000 + h, 1000 + low, 1000 + c, (v + 0.21) * 1e6) for day, o, h, low, c, v in AS_GIVEN],
        {},
    ),
    "investing.com, german": (
        "SAP Historische Daten.csv",
        write_rows(
            '"Datum","Zuletzt","Eröffn.","Hoch","Tief","Vol.","+/- %"',
            '"{d}","1.0{o:02},50","1.0{o:02},00","1.0{h:02},00","1.0{l:02},00","{v},5K","0,28%"',
            ("01.03.2024", "04.03.2024", "15.03.2024"),
        ),
        "SAP",
        [(day, 1000 + o, 1000 + h, 1000 + low, 1000.5 + o, v * 1000 + 500) for day, o, h, low, _, v in AS_GIVEN],
        {"symbol": "SAP"},
    ),
    "kaggle S&P 500": (
        "all_stocks_5yr.csv",
        write_rows("date,open,high,low,close,volume,Name", OHLCV + ",AAL"),
        "AAL",
        AS_GIVEN,
        {},
    ),
    "kaggle, with an index": (
        "stocks.csv",
        write_rows(",Symbol,Date,Adj Close,Close,High,Low,Open,Volume", "7,MMM,{d},{a},{c},{h},{l},{o},{v}"),
        "MMM",
        ADJUSTED,
        {},
    ),
    "backtrader": (
        "orcl-1995-2014.txt",
        write_rows("Date,Open,High,Low,Close,Adj Close,Volume", "{d},{o},{h},{l},{c},{a},{v}"),
        "ORCL",
        ADJUSTED,
        {},
    ),
    "backtesting.py": ("GOOG.csv", write_rows(",Open,High,Low,Close,Volume", OHLCV), "GOOG", AS_GIVEN, {}),
    "zipline": (
        "AAPL.csv",
        write_rows("date,open,high,low,close,volume,dividend,split", OHLCV + ",0.0,1.0"),
        "AAPL",
        AS_GIVEN,
        {},
    ),
    "mplfinance": (
        "yahoofinance-SPY-20080101-20180101.csv",
        write_rows("Date,Open,High,Low,Close,Volume,Adj Close", OHLCV + ",{a}"),
        "SPY",
        ADJUSTED,
        {},
    ),
    "plotly": (
        "finance-charts-apple.csv",
        write_rows(
            "Date,AAPL.Open,AAPL.High,AAPL.Low,AAPL.Close,AAPL.Volume,AAPL.Adjusted,dn,mavg,up,direction",
            OHLCV + ",{a},1,2,3,Increasing",
        ),
        "AAPL",
        ADJUSTED,
        {},
    ),
    "quandl": (
        "WIKI-AAPL.csv",
        write_rows(
            "Date,Open,High,Low,Close,Volume,Ex-Dividend,Split Ratio,Adj. Open,Adj. High,Adj. Low,Adj. Close,Adj. Volume",
            OHLCV + ",0.0,1.0,1,1,1,{a},9",
        ),
        "AAPL",
        ADJUSTED,
        {},
    ),
    "tiingo": (
        "AAPL.csv",
        write_rows(
            "date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor",
            "{d}T00:00:00.000Z,{c},{h},{l},{o},{v},{a},1,1,1,9,0.0,1.0",
        ),
        "AAPL",
        ADJUSTED,
        {},
    ),
    "lean": (
        "aapl.csv",
        write_rows("", "{d} 00:00,{o}0000,{h}0000,{l}0000,{o}5000,{v}", COMPACT),
        "AAPL",
        AS_GIVEN,
        {"columns": ["date,open,high,low,close,volume"], "scale": 10_000.0},
    ),
    "cryptodatadownload": (
        "Binance_BTCUSDT_d.csv",
        "https://www.CryptoDataDownload.com\n"
        + write_rows(
            "unix,date,symbol,open,high,low,close,Volume BTC,Volume USDT,tradecount",
            "1709510400000,{d} 00:00:00,BTC/USDT,{o},{h},{l},{c},{v},999999,5",
        ),
        "BTC/USDT",
        AS_GIVEN,
        {},
    ),
    "binance": (
        "BTCUSDT-1d-2024-03.csv",
        write_rows(
            "open_time,open,high,low,close,volume,close_time,quote_volume,count",
            "{d},{o},{h},{l},{c},{v},1709596799999,999999,5",
            ("1709251200000", "1709510400000", "1710460800000000"),
        ),
        "BTCUSDT",
        AS_GIVEN,
        {},
    ),
    "coinmarketcap": (
        "Bitcoin.csv",
        write_rows(
            "timeOpen;timeClose;timeHigh;timeLow;name;open;high;low;close;volume;marketCap;timestamp",
            '"{d}T00:00:00.000Z";"x";"x";"x";"2781";{o};{h};{l};{c};{v};1;"{d}T23:59:59.999Z"',
        ),
        "BTC-USD",
        AS_GIVEN,
        {"symbol": "BTC-USD"},
    ),
    "nse bhavcopy": (
        "cm04MAR2024bhav.csv",
        write_rows(
            "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP,TOTALTRADES,ISIN,",
            "M&M,EQ,{o},{h},{l},{c},1,2,{v},999,{d},5,INE101A01026,",
            INDIAN,
        ),
        "M&M",
        AS_GIVEN,
        {},
    ),
    "nse udiff": (
        "BhavCopy_NSE_CM.csv",
        write_rows(
            "TradDt,BizDt,Sgmt,TckrSymb,SctySrs,OpnPric,HghPric,LwPric,ClsPric,LastPric,PrvsClsgPric,TtlTradgVol",
            "{d},{d},CM,RELIANCE,EQ,{o},{h},{l},{c},1,2,{v}",
        ),
        "RELIANCE",
        AS_GIVEN,
        {},
    ),
    "nse page": (
        "Quote-Equity-RELIANCE-EQ.csv",
        write_rows(
            '"Date ","series ","OPEN ","HIGH ","LOW ","PREV. CLOSE ","ltp ","close ","vwap ","52W H","VOLUME ","VALUE "',
            '"{d}","EQ","2,9{o}.00","2,9{h}.00","2,9{l:02}.00","1.00","2.00","2,9{o}.50","3.00","4.00","1,23,45,{v}","1,00,000"',
            ("01-Mar-2024", "04-Mar-2024", "15-Mar-2024"),
        ),
        "RELIANCE",
        [(day, 2900 + o, 2900 + h, 2900 + low, 2900.5 + o, 12_345_000 + v) for day, o, h, low, _, v in AS_GIVEN],
        {"symbol": "RELIANCE"},
    ),
    "tushare": (
        "daily.csv",
        write_rows(
            "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount",
            "600519.SH,{d},{o},{h},{l},{c},1,2,3,{v},999",
            COMPACT,
        ),
        "600519.SH",
        AS_GIVEN,
        {},
    ),
    "akshare": (
        "stock_zh_a_hist.csv",
        write_rows("日期,股票代码,开盘,收盘,最高,最低,成交量,成交额", "{d},600519,{o},{c},{h},{l},{v},999").encode("gb18030"),
        "600519",
        AS_GIVEN,
        {},
    ),
    "mt4": (
        "EURUSD1440.csv",
        write_rows("", "{d},00:00,{o},{h},{l},{c},{v}", DOTTED),
        "EURUSD",
        AS_GIVEN,
        {"columns": ["date,time,open,high,low,close,volume"]},
    ),
    "mt5": (
        "EURUSD_Daily_202403010000_202403150000.csv",
        write_rows(
            "<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
            "{d}\t{o}\t{h}\t{l}\t{c}\t7\t{v}\t0",
            DOTTED,
        ),
        "EURUSD",
        AS_GIVEN,
        {},
    ),
    "euronext": (
        "TTE.csv",
        '\ufeff"Historical Data"\n"From 2024-03-01 to 2024-03-15"\nFR0000120271\n'
        + write_rows(
            'Date;Open;High;Low;Last;Close;"Number of Shares";"Number of Trades";Turnover;vwap',
            "{d};{o},00;{h},00;{l},00;1,00;{o},50;{v};5;999,5;3,00",
            ("01/03/2024", "04/03/2024", "15/03/2024"),
        ),
        "TTE",
        AS_GIVEN,
        {},
    ),
    "barchart": (
        "aapl_price-history-03-15-2024.csv",
        write_rows("Time,Open,High,Low,Last,Change,%Chg,Volume", "{d},{o},{h},{l},{c},0.1,1%,{v}", AMERICAN)
        + '"Downloaded from Barchart.com as of 03-15-2024 05:12pm CST"\n',
        "AAPL",
        AS_GIVEN,
        {},
    ),
    "macrotrends": (
        "MacroTrends_Data_Download_AAPL.csv",
        "Macrotrends Data Download\n\nDISCLAIMER AND TERMS OF USE: HISTORICAL DATA, IS PROVIDED AS IS\n\n"
        + write_rows("date,open,high,low,close,volume", OHLCV),
        "AAPL",
        AS_GIVEN,
        {"symbol": "AAPL"},
    ),
    "polygon": (
        "2024-03.csv",
        write_rows(
            "ticker,volume,open,close,high,low,window_start,transactions",
            "A,{v},{o},{c},{h},{l},{d},5",
            ("1709269200000000000", "1709528400000000000", "1710475200000000000"),
        ),
        "A",
        AS_GIVEN,
        {},
    ),
    "spreadsheet": (
        "prices.csv",
        "sep=;\n" + write_rows("Ticker;Day;Open;High;Low;Close;Volume", "MSFT;{d};{o},0;{h},0;{l},0;{o},5;{v}", ("45352", "45355", "45366"))
        + ";;;;;;\nTotal;;;;;;303\n",
        "MSFT",
        AS_GIVEN,
        {},
    ),
    "index column without a name": (
        "history.csv",
        write_rows(",Stock,Open,High,Low,Close,AdjClose,Volume", "{d},aapl,{o},{h},{l},{c},{a},{v}"),
        "AAPL",
        ADJUSTED,
        {},
    ),
}  # fmt: skip  # a header stays on one line


@pytest.mark.parametrize("name", FILES)
def test_published_formats_are_read_without_warnings(tmp_path: Path, name: str) -> None:
    """Each published format gives the expected symbol and rows, without a warning."""
    file, content, symbol, days, options = FILES[name]
    reading = read(tmp_path / file, content, **options)
    assert reading.table.symbols == (symbol,)
    assert list_days(reading.table) == [pytest.approx(day) for day in days]
    assert reading.warnings == []


def test_lines_around_the_table_are_skipped_and_reported(tmp_path: Path) -> None:
    """Title lines above the table and a total below it are skipped, and the output counts them."""
    above = "https://example.com/prices\nAAPL, daily prices\n\n"
    below = "\nTotal,,,,,303\n# end of file\n"
    content = above + write_rows("Date,Open,High,Low,Close,Volume", OHLCV) + below
    reading = read(tmp_path / "AAPL.csv", content)
    assert list_days(reading.table) == AS_GIVEN
    text = describe(reading)
    assert "AAPL.csv: utf-8, comma, header on line 4" in text
    assert "3 more lines above the first row" in text
    assert f"skipped: 2 x notes and totals, first {tmp_path}/AAPL.csv:9" in text


@pytest.mark.parametrize(
    "name",
    ["Adj Close", "Adj_Close", "AdjClose", "Adjusted", "Adjusted Close", "AAPL.Adjusted", "Close (adj)"],
)
def test_an_adjusted_column_has_many_names(tmp_path: Path, name: str) -> None:
    """A column with any of these names is used as the adjusted close, and the output names it."""
    reading = read(
        tmp_path / "AAPL.csv",
        write_rows(f"Date,Open,High,Low,Close,{name},Volume", "{d},{o},{h},{l},{c},{a},{v}"),
    )
    assert list_days(reading.table) == ADJUSTED
    assert f"adjusted by {name!r}" in describe(reading)


def test_row_order_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    """Rows with the newest first, and with any line end, are read in the order of the days."""
    lines = write_rows("Date,Open,High,Low,Close,Volume", OHLCV).splitlines()
    for end in ("\n", "\r\n", "\r"):
        content = end.join([lines[0], *reversed(lines[1:])])
        assert list_days(read(tmp_path / "AAPL.csv", content).table) == AS_GIVEN


def test_several_symbols_are_read_from_columns(tmp_path: Path) -> None:
    """Files of yfinance have a column per symbol; a symbol without prices on a day gets no row for it."""
    content = (
        "Price,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume\n"
        "Ticker,AAPL,BRK-B,AAPL,BRK-B,AAPL,BRK-B,AAPL,BRK-B,AAPL,BRK-B\n"
        + write_rows("Date,,,,,,,,,,", "{d},{c},7,{h},8,{l},6,{o},7,{v},1")
        + "2024-03-18,5,,5,,5,,5,,5,\n"
    )
    table = read(tmp_path / "download.csv", content).table
    assert table.symbols == ("AAPL", "BRK-B")
    assert [len(list_days(table.select(table.rows_of(code)))) for code in range(2)] == [4, 3]
    assert list_rows(table)[-1] == ("BRK-B", "2024-03-15", 7, 8, 6, 7, 1)


@pytest.mark.parametrize(
    ("name", "meaning", "affix"),
    [
        ("<CLOSE>", "close", ""),
        ("Close*", "close", ""),
        ("Close/Last", "close", ""),
        ("Closing Price", "close", ""),
        ("closePrice", "close", ""),
        ("Adj. Close", "adjusted", ""),
        ("Adj Close**", "adjusted", ""),
        ("ADJUSTED_CLOSE", "adjusted", ""),
        ("Close (adj)", "adjusted", ""),
        ("AAPL.Adjusted", "adjusted", "AAPL"),
        ("5. adjusted close", "adjusted", ""),
        ("Open Price (INR)", "open", ""),
        ("BRK.B.Open", "open", "BRK.B"),
        ("Open 7203.T", "open", "7203.T"),
        ("Volume_(BTC)", "volume", "BTC"),
        ("No.of Shares", "volume", ""),
        ("Shares Traded", "volume", ""),
        ("Quote asset volume", "turnover", ""),
        ("Stock Splits", "split", ""),
        ("quote_date", "date", ""),
        ("Start Date", "date", ""),
    ],
)
def test_a_column_name_has_a_meaning(name: str, meaning: str, affix: str) -> None:
    """Case, punctuation, numbers, currency and filler words of a column name do not change its meaning."""
    found = parse_name(name)
    assert found is not None
    assert (found.meaning, found.affix) == (meaning, affix)


@pytest.mark.parametrize(
    "name",
    ["PREV. CLOSE", "Bid Open", "Ask Close", "SMA_Close", "52W H", "Market Cap", "Close Time", "Change %",
     "Weighted_Price", "Deliverable Volume", "Unadjusted Close", "Open Interest", "high_time", "No. of Trades", "Unit price"],
)  # fmt: skip  # the names are similar, so they stay together
def test_columns_with_other_prices_are_ignored(name: str) -> None:
    """A column whose name only contains a known word, such as 'Bid Open', is ignored."""
    found = parse_name(name)
    assert found is None or found.meaning == "ignored"


@pytest.mark.parametrize(
    ("file", "symbol"),
    [
        ("aapl.csv", "AAPL"),
        ("AAPL_2010-2020.csv", "AAPL"),
        ("aapl.us.txt", "AAPL.US"),
        ("AAPL (1).csv", "AAPL"),
        ("BTC-USD.csv.gz", "BTC-USD"),
        ("7203.T.csv", "7203.T"),
        ("600519.csv", "600519"),
        ("^GSPC.csv", "^GSPC"),
        ("BRK_A.csv", "BRK_A"),
        ("BTC_USDT.csv", "BTC_USDT"),
        ("M&M.csv", "M&M"),
        ("intraday_5min_IBM.csv", "IBM"),
        ("VIX_History.csv", "VIX"),
        ("EURUSD_H1_201001040000_202312290000.csv", "EURUSD"),
        ("SP500_NOV2019_Hist.csv", "SP500"),
        ("prices.csv", None),
        ("HistoricalData_1709510400000.csv", None),
        ("2006-day-001.txt", None),
        ("1996.csv", None),
        ("SPY_20110701_20120630_Bollinger.csv", None),
        ("my portfolio shares.csv", None),
        ("stackoverflow.questions.60982755.csv", None),
        ("2006-volume-day-001.txt", None),
    ],
)
def test_the_symbol_is_guessed_from_the_file_name(file: str, symbol: str | None) -> None:
    """Dates, intervals, vendors and filler words are ignored; a name with two other words has no symbol."""
    assert guess_symbol(f"folder/{file}") == symbol


@pytest.mark.parametrize(
    ("text", "form", "second"),
    [
        ("20240304", "YYYYMMDD", 0),
        ("20240304 093000", "YYYYMMDD", 34_200),
        ("202403040930", "YYYYMMDD", 34_200),
        ("2024/03/04", "YYYY-MM-DD", 0),
        ("2024.3.4", "YYYY-MM-DD", 0),
        ("2024-03-04 00:00:00+00:00", "YYYY-MM-DD", 0),
        ("2024-03-04T09:30:00.000Z", "YYYY-MM-DD", 34_200),
        ("2024-03-04 16:00:00-05:00", "YYYY-MM-DD", 57_600),
        ("04-Mar-2024", "DD Mon YYYY", 0),
        ("4-Mar-24", "DD Mon YYYY", 0),
        ("04MAR2024", "DD Mon YYYY", 0),
        ("4. März 2024", "DD Mon YYYY", 0),
        ("Mon, 04 Mar 2024 16:00:00 GMT", "DD Mon YYYY", 57_600),
        ("Mar 4, 2024", "Mon DD, YYYY", 0),
        ("Monday, March 4th, 2024", "Mon DD, YYYY", 0),
        ("2024-Mar-04", "YYYY Mon DD", 0),
        ("1709510400", "Unix time", 0),
        ("1709544600000", "Unix time", 34_200),
        ("1709510400000000", "Unix time", 0),
        ("1709510400.0", "Unix time", 0),
        ("45355", "Excel day", 0),
        ("45355.5", "Excel day", 43_200),
    ],
)
def test_dates_are_read_in_every_format(text: str, form: str, second: int) -> None:
    """Each of these texts is 4 March 2024 in exactly one date format."""
    assert find_date_forms([text]) == [form]
    stamps = parse_days(to_column([text]), form)
    assert (stamps.days.tolist(), stamps.seconds.tolist()) == ([738_949], [second])


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-30",
        "2024-13-01",
        "31/04/2024",
        "20240230",
        "2024-03",
        "0",
        "12",
        "12345678901234567890",
        "",
        "x",
    ],
)
def test_an_invalid_date_has_no_format(text: str) -> None:
    """An invalid date, such as 30 February, matches no date format."""
    assert find_date_forms([text]) == []


def write_dates(*days: str) -> str:
    """Return a file with these dates."""
    return write_rows("Ticker,Date,Open,High,Low,Close,Volume", "AAPL,{d},{o},{h},{l},{c},{v}", days)


def test_a_day_above_twelve_decides_for_the_whole_file(tmp_path: Path) -> None:
    """One date with a day above 12, in any row, decides between MM/DD and DD/MM for the whole file."""
    days = [f"0{n % 9 + 1}/0{n // 9 % 9 + 1}/{2000 + n // 81}" for n in range(1_000)]
    rows = "".join(f"AAPL,{day},1,2,1,2,5\n" for day in [*days, "12/31/2019"])
    reading = read(tmp_path / "prices.csv", "Ticker,Date,Open,High,Low,Close,Volume\n" + rows)
    assert "'Date' as MM/DD/YYYY" in describe(reading)
    assert list_days(reading.table)[1][0] == "2000-01-02"
    reading = read(tmp_path / "prices.csv", write_dates("13.03.2024", "04.03.2024", "05.03.2024"))
    assert [day[0] for day in list_days(reading.table)] == ["2024-03-04", "2024-03-05", "2024-03-13"]


def test_ambiguous_dates_are_refused(tmp_path: Path) -> None:
    """Ambiguous dates are refused until --date-format decides; a mix of DD/MM and MM/DD is always refused."""
    undecided = write_dates("03/04/2024", "03/05/2024", "03/06/2024")
    reason = refuse(tmp_path / "prices.csv", undecided)
    assert reason == (
        "prices.csv:2: days such as '03/04/2024' can be MM/DD/YYYY or DD/MM/YYYY;"
        " say which with --date-format MM/DD/YYYY"
    )
    american = read(tmp_path / "prices.csv", undecided, date_format="mm/dd/yyyy").table
    european = read(tmp_path / "prices.csv", undecided, date_format="%d/%m/%Y").table
    assert list_days(american)[1][0] == "2024-03-05"
    assert list_days(european)[1][0] == "2024-05-03"
    both = write_dates("03/13/2024", "13/03/2024", "03/06/2024")
    assert "prices.csv:3: date '13/03/2024' is DD/MM/YYYY, but other lines are MM/DD/YYYY" in refuse(
        tmp_path / "prices.csv", both, skip_invalid=True
    )
    later = write_dates("03/13/2024", "03/14/2024", "13/03/2024")
    assert "'13/03/2024' is DD/MM/YYYY, but other lines are MM/DD/YYYY" in refuse(
        tmp_path / "prices.csv", later, skip_invalid=True
    )
    assert "can be MM/DD/YYYY or DD/MM/YYYY or YY/MM/DD" in refuse(
        tmp_path / "prices.csv", write_dates("03/04/05", "03/05/05", "03/06/05")
    )


@pytest.mark.parametrize(
    ("cell", "close"),
    [
        ("$1.50", 1.5),
        ('"1,234.50"', 1_234.5),
        ('"1,23,456.00"', 123_456),
        ("1 234.5", 1_234.5),
        ("1'234.5", 1_234.5),
        ("1.5 USD", 1.5),
        ("\u20ac1.5", 1.5),
        (" 1.5 ", 1.5),
        ("+1.5", 1.5),
        (".5", 0.5),
        ("5.", 5),
        ("1.5e3", 1_500),
    ],
)
def test_prices_are_read_with_signs_and_separators(tmp_path: Path, cell: str, close: float) -> None:
    """Prices may have currency signs, thousands separators, a leading plus and an exponent."""
    content = f"Ticker,Date,Close\nAAPL,2024-03-01,1.25\nAAPL,2024-03-04,{cell}\n"
    assert list_days(read(tmp_path / "prices.csv", content).table)[1][4] == close


@pytest.mark.parametrize(
    "cell", ["1.2.3", "12,34", "1,2345", "(5)", "5%", "0x10", "1_000", "inf", "1.5M", "\u0661", "5 5", "one"]
)
def test_an_invalid_price_is_refused(tmp_path: Path, cell: str) -> None:
    """A price with a suffix, with digits of other scripts, or with wrong separators is refused."""
    content = f'Ticker,Date,Close\nAAPL,2024-03-01,1.25\nAAPL,2024-03-04,"{cell}"\n'
    reason = refuse(tmp_path / "prices.csv", content, decimal=".")
    assert f"prices.csv:3: close {cell!r} is not a price" in reason


@pytest.mark.parametrize(
    ("cell", "volume"),
    [("45.21M", 45_210_000), ("1.5k", 1_500), ("2B", 2e9), ("1,234K", 1_234_000), ("2012.25", 2012.25), ("-", 0),
     ("", 0), ("N/A", 0), ("0.00K", 0), ("1e3", 1_000)],
)  # fmt: skip  # one case per line would fill a page
def test_volumes_have_suffixes_and_fractions(tmp_path: Path, cell: str, volume: float) -> None:
    """Volumes may have suffixes and fractions; a missing volume is 0, and the output counts it."""
    content = f'Ticker,Date,Close,Vol.\nAAPL,2024-03-04,1.25,"{cell}"\n'
    reading = read(tmp_path / "prices.csv", content)
    assert list_days(reading.table)[0][-1] == volume
    assert ("volume missing: 0 (1 rows)" in describe(reading)) == (cell in {"-", "", "N/A"})
    assert ("volume with a fraction: rounded (1 rows)" in describe(reading)) == (cell == "2012.25")


@pytest.mark.parametrize("cell", ["", "-", "N/A", "#N/A", "null", "NaN", "None", "\u2014"])
def test_a_row_without_prices_is_skipped(tmp_path: Path, cell: str) -> None:
    """A row without prices is skipped and counted, also without --skip-invalid."""
    content = (
        write_rows("Date,Open,High,Low,Close,Volume", OHLCV) + f"2024-03-18,{cell},{cell},{cell},{cell},0\n"
    )
    reading = read(tmp_path / "AAPL.csv", content)
    assert list_days(reading.table) == AS_GIVEN
    assert f"skipped: 1 x rows without prices, first {tmp_path}/AAPL.csv:5" in describe(reading)


def test_open_high_and_low_may_be_missing(tmp_path: Path) -> None:
    """A row or a whole file may have the close as its only price; open, high and low are then missing."""
    content = (
        write_rows("date,open,high,low,close,volume,Name", OHLCV + ",DHR") + "2024-03-18,,,,12.25,0,DHR\n"
    )
    reading = read(tmp_path / "prices.csv", content)
    assert list_days(reading.table)[3] == ("2024-03-18", None, None, None, 12.25, 0)
    assert "open, high or low missing: the close stands for it (1 rows)" in describe(reading)
    reading = read(tmp_path / "SP500.csv", "DATE,Price\n2024-03-04,5130.95\n")
    assert list_rows(reading.table) == [("SP500", "2024-03-04", None, None, None, 5130.95, 0)]
    assert "close 'Price'; it stands for open, high and low" in describe(reading)


def test_the_decimal_mark_is_found_or_required(tmp_path: Path) -> None:
    """'1,234' is refused as ambiguous, unless --decimal or another number of the file decides."""
    content = "Ticker;Date;Close\nAAPL;2024-03-04;1,234\n"
    assert "prices.csv:1: '1,234' can be a decimal or thousands; say which with --decimal" in refuse(
        tmp_path / "prices.csv", content
    )
    assert list_days(read(tmp_path / "prices.csv", content, decimal=",").table)[0][4] == 1.234
    assert list_days(read(tmp_path / "prices.csv", content, decimal=".").table)[0][4] == 1_234
    content += "AAPL;2024-03-05;12,5\n"
    assert [day[4] for day in list_days(read(tmp_path / "prices.csv", content).table)] == [1.234, 12.5]
    content += "AAPL;2024-03-06;12.5\n"
    assert "can be a decimal or thousands" in refuse(tmp_path / "prices.csv", content)
    assert "prices.csv:4: close '12.5' is not a price" in refuse(
        tmp_path / "prices.csv", content, decimal=","
    )
    german = "Datum;Schluss\n04.03.2024;15.161\n15.03.2024;15.200\n"
    assert "'15.161' can be a decimal" in refuse(tmp_path / "DAX.csv", german)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path: Path, separator: str) -> None:
    """Columns may be separated by commas, semicolons, tabs or pipes."""
    content = write_rows("Ticker,Date,Open,High,Low,Close,Volume", "AAPL," + OHLCV).replace(",", separator)
    assert list_days(read(tmp_path / "prices.csv", content).table) == AS_GIVEN


def test_symbols_are_stored_in_capitals(tmp_path: Path) -> None:
    """Symbols of any vendor are stored in capitals, with their punctuation."""
    written = [
        "7203.T",
        "0700.HK",
        "600519.SH",
        "BRK_A",
        "BRK/B",
        "^gspc",
        "CAD=X",
        "btc/usdt",
        "NYSE:LMT",
        "M&M",
        "na",
    ]
    rows = "".join(f"{symbol},2024-03-04,1,2,1,2,5\n" for symbol in written)
    table = read(tmp_path / "prices.csv", "Code,Date,Open,High,Low,Close,Volume\n" + rows).table
    assert table.symbols == tuple(sorted(symbol.upper() for symbol in written))


def test_names_of_companies_are_no_symbols(tmp_path: Path) -> None:
    """With company names instead of symbols, the file name is the symbol; two companies are refused."""
    rows = "Name,Date,Close\nApple Inc.,2024-03-04,1\n"
    assert read(tmp_path / "AAPL.csv", rows).table.symbols == ("AAPL",)
    reason = refuse(tmp_path / "AAPL.csv", rows + "Microsoft,2024-03-04,1\n")
    assert "AAPL is one symbol, but the file holds 'Apple Inc.' and 'Microsoft'" in reason
    both = "Security,Symbol,Date,Close\nApple Inc.,AAPL,2024-03-04,1\n"
    assert read(tmp_path / "prices.csv", both).table.symbols == ("AAPL",)


def test_the_symbol_option_needs_one_symbol(tmp_path: Path) -> None:
    """--symbol renames the only symbol of a file, and is refused for a file with two."""
    content = "Ticker,Date,Close\nAAPL,2024-03-04,1\n"
    assert read(tmp_path / "prices.csv", content, symbol="nasdaq:aapl").table.symbols == ("NASDAQ:AAPL",)
    reason = refuse(tmp_path / "prices.csv", content + "MSFT,2024-03-04,1\n", symbol="X")
    assert "X is one symbol, but the file holds 'AAPL' and 'MSFT'" in reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (
            "Ticker,Symbol,Date,Close",
            "the columns 'Ticker' and 'Symbol' both mean symbol; choose with --columns symbol=Ticker",
        ),
        (
            "Ticker,Date,Close,Close*",
            "the columns 'Close' and 'Close*' both mean close; choose with --columns close=Close",
        ),
        (
            "Ticker,Date,High,Low,Close",
            "no column open; the columns are 'Ticker', 'Date', 'High', 'Low', 'Close'; name it",
        ),
        ("Ticker,Date,Kurs,Volumen", "no header with a date and a close among the first lines"),
        ("a,b,c,d,e", "no header with a date and a close among the first lines; the first is 'a,b,c,d,e'"),
        ("Ticker,Date,Bid Close,Ask Close,Open,High,Low", "no header with a date and a close"),
    ],
)
def test_an_unclear_header_is_refused(tmp_path: Path, header: str, reason: str) -> None:
    """The error names the unclear columns, or the first line, and the option that decides."""
    row = ",".join(["A", "B", "2024-03-04", "1", "2", "3", "4"][: header.count(",") + 1])
    assert reason in refuse(tmp_path / "prices.csv", f"{header}\n{row}\n")


def test_the_columns_option_decides(tmp_path: Path) -> None:
    """--columns gives the columns by name or in order; '-' ignores a column."""
    content = "Ticker,Symbol,Date,Kurs,High,Low,Close\nA,B,2024-03-04,1.5,2,1,2\n"
    for columns in (["symbol=Symbol,open=Kurs"], ["symbol=symbol", "open=-"]):
        table = read(tmp_path / "prices.csv", content, columns=columns).table
        assert list_rows(table) == [("B", "2024-03-04", 1.5 if "Kurs" in columns[0] else None, 2, 1, 2, 0)]
    rows = content.partition("\n")[2]
    table = read(tmp_path / "prices.csv", rows, columns=["-,ticker,date,open,high,low,close"]).table
    assert list_rows(table) == [("B", "2024-03-04", 1.5, 2, 1, 2, 0)]
    assert "no line has the 3 fields of --columns" in refuse(
        tmp_path / "prices.csv", rows, columns=["date,symbol,close"]
    )
    assert "--columns close=Last: 0 columns have this name" in refuse(
        tmp_path / "prices.csv", content, columns=["close=Last"]
    )


def test_a_file_without_header_is_refused(tmp_path: Path) -> None:
    """The error has the first line of the file, and an example of --columns."""
    reason = refuse(tmp_path / "AAPL.csv", write_rows("", OHLCV))
    assert "the first is '2024-03-01,10,11,9,10.5,100'" in reason
    assert "--columns date,open,high,low,close,volume" in reason


def test_the_volume_is_not_the_turnover(tmp_path: Path) -> None:
    """The volume in shares or coins is used, not the one in money; an unclear volume is refused."""
    row = "2024-03-04,1,2,1,2,5,999\n"
    for header, symbol in (
        ("Date,Open,High,Low,Close,Volume,Quote Volume", "BTCUSDT"),
        ("Date,Open,High,Low,Close,Volume BTC,Volume USDT", "BTC/USDT"),
        ("Date,Open,High,Low,Close,Volume_(BTC),Volume_(Currency)", "BTC-USD"),
        ("Date,Open,High,Low,Close,Volume XRP,Volume BTC", "BINANCE:XRPBTC"),
        ("Date,Open,High,Low,Close,Volume,Amount", "600519.SH"),
    ):
        assert list_days(read(tmp_path / "prices.csv", f"{header}\n{row}", symbol=symbol).table)[0][-1] == 5
    reason = refuse(tmp_path / "prices.csv", f"Date,Open,High,Low,Close,Volume USD,x\n{row}", symbol="BTCUSD")
    assert "'Volume USD': whether it counts BTCUSD or money is not clear" in reason
    reason = refuse(
        tmp_path / "prices.csv", f"Date,Open,High,Low,Close,Volume BTC,Volume USD\n{row}", symbol="X"
    )
    assert "'Volume BTC' and 'Volume USD': whether it counts X or money is not clear" in reason


def test_times_may_be_in_their_own_column(tmp_path: Path) -> None:
    """A separate column of times decides the order of the bars of a day."""
    content = (
        "Symbol,Date,Time,Open,High,Low,Close\nA,2024-03-04,4:00 PM,2,3,2,3\nA,2024-03-04,9:30 AM,1,2,1,2\n"
    )
    assert list_days(read(tmp_path / "prices.csv", content).table) == [("2024-03-04", 1, 3, 1, 3, 0)]
    assert "prices.csv:4: time 'noon' is not a time of day" in refuse(
        tmp_path / "prices.csv", content + "A,2024-03-05,noon,1,2,1,2\n"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"symbol": "A B"}, "symbol is 'A B'"),
        ({"columns": ["date,colour"]}, "--columns has 'colour'; give some of symbol, date"),
        ({"columns": ["date,close=Last"]}, "give all columns in order, or only MEANING=NAME pairs"),
        ({"date_format": "american"}, "--date-format is 'american'; give one of YYYY-MM-DD"),
        ({"timezone": "Mars/Base"}, "--timezone is 'Mars/Base'"),
        ({"encoding": "klingon"}, "--encoding is 'klingon'"),
        ({"scale": 0.0}, "--scale is 0.0"),
        ({"where": ["series"]}, "--where is 'series'; give COLUMN=VALUE"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], reason: str) -> None:
    """Invalid options are refused before a file is opened."""
    with pytest.raises(InvalidInput, match=reason.replace("(", ".")):
        parse_options(**options)


def test_the_split_option_is_parsed() -> None:
    """A split is SYMBOL:DAY:NEW:OLD, and the symbol may contain a colon."""
    assert parse_split("nyse:lmt:2014-06-09:7:1") == ("NYSE:LMT", 735_393, 7)
    for wrong in ("AAPL:2014-06-09:7", "AAPL:today:7:1", "AAPL:2014-06-09:7:0", "A B:2014-06-09:7:1", ""):
        with pytest.raises(InvalidInput, match="give SYMBOL:YYYY-MM-DD:NEW:OLD"):
            parse_split(wrong)
