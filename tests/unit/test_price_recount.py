"""Price files in many formats give the same ticks as an independent calculation with pandas."""

import io
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import asdict

from core.price_import.daily_ticks import build_ticks
from core.price_import.vocabulary import parse_name
from tests.price_files import list_rows, read

SYMBOLS = ("0700.HK", "BRK-B", "M&M")
DAYS = 60
SPLIT_DAY = 25
PRICES = ["Open", "High", "Low", "Close", "Adj Close"]

# Returns the file name, the content and the options.
Format = Callable[[pd.DataFrame], tuple[str, str | bytes, dict[str, Any]]]


def make_history() -> pd.DataFrame:
    """Return prices of three symbols on 60 weekdays; the adjusted close reflects a 2:1 split on day 25."""
    generator = np.random.default_rng(11)
    frames: list[pd.DataFrame] = []
    for place, symbol in enumerate(SYMBOLS):
        close = (80 + 40 * place) * np.exp(generator.normal(0, 0.015, DAYS).cumsum())
        close[:SPLIT_DAY] *= 2
        frame = pd.DataFrame({"Symbol": symbol, "Date": pd.bdate_range("2023-01-02", periods=DAYS)})
        frame["Open"] = (close * generator.uniform(0.99, 1.01, DAYS)).round(2)
        frame["High"], frame["Low"] = (close * 1.02).round(2), (close * 0.98).round(2)
        frame["Close"] = close.round(2)
        frame["Adj Close"] = (frame["Close"] / np.where(np.arange(DAYS) < SPLIT_DAY, 2, 1)).round(4)
        frame["Volume"] = generator.integers(1, 10**9, DAYS)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def format_dates(history: pd.DataFrame, form: str) -> pd.DataFrame:
    """Return the history with dates as texts in a `strftime` format."""
    return history.assign(Date=history["Date"].dt.strftime(form))


def number_dates(history: pd.DataFrame, origin: str, unit: timedelta) -> pd.DataFrame:
    """Return the history with dates as numbers of units since an origin."""
    return history.assign(Date=(history["Date"] - pd.Timestamp(origin)) // pd.Timedelta(unit))


def make_symbol_columns(history: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a column per price and symbol, as yfinance does for several symbols."""
    table = history.pivot_table(index="Date", columns="Symbol", aggfunc="first")
    return table.rename_axis(columns=["Price", "Ticker"])


def write_index_column(history: pd.DataFrame) -> tuple[str, str, dict[str, Any]]:
    """Return a file with the columns Stock and AdjClose, and an index column without a name."""
    names = {"Symbol": "Stock", "Adj Close": "AdjClose"}
    return "history.csv", history.rename(columns=names).to_csv(), {}


def write_money(history: pd.DataFrame) -> tuple[str, str, dict[str, Any]]:
    """Return a file with dollar signs, thousands separators and volumes in millions, newest day first."""
    texts = history.assign(**{name: history[name].map("${:,.4f}".format) for name in PRICES})
    texts["Volume"] = (history["Volume"] / 1e6).map("{:.6f}M".format)
    names = {"Close": "Close/Last", "Volume": "Vol."}
    return "quotes.csv", texts.iloc[::-1].rename(columns=names).to_csv(index=False), {}


def write_archive(history: pd.DataFrame) -> tuple[str, bytes, dict[str, Any]]:
    """Return an archive with a file for each symbol; only the file names have the symbols."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("README.md", "no table")
        for symbol, rows in history.groupby("Symbol"):
            archive.writestr(f"daily/{symbol}.csv", rows.drop(columns="Symbol").to_csv(index=False))
    return "histories.zip", packed.getvalue(), {}


def write_spreadsheet(history: pd.DataFrame) -> tuple[str, str, dict[str, Any]]:
    """Return the export of a European spreadsheet: a separator line, serial days and a total."""
    table = number_dates(history, "1899-12-30", timedelta(days=1)).to_csv(sep=";", decimal=",", index=False)
    return "export.csv", f"sep=;\n{table};;;;;;;\nTotal;;;;;;;99\n", {}


FORMATS: dict[str, Format] = {
    "index column without a name": write_index_column,
    "decimal comma": lambda history: (
        "prices.csv",
        format_dates(history, "%d.%m.%Y").to_csv(sep=";", decimal=",", index=False),
        {},
    ),
    "decimal comma in quotes": lambda history: ("prices.csv", history.to_csv(decimal=",", index=False), {}),
    "UTF-16 with tabs": lambda history: (
        "prices.txt",
        history.to_csv(sep="\t", index=False).encode("utf-16"),
        {},
    ),
    "Windows-1252 with pipes": lambda history: (
        "prices.txt",
        history.assign(Note="Société").to_csv(sep="|", index=False).encode("cp1252"),
        {},
    ),
    "serial days of Excel": write_spreadsheet,
    "Unix time in seconds": lambda history: (
        "prices.csv",
        number_dates(history, "1970-01-01", timedelta(seconds=1)).to_csv(index=False),
        {},
    ),
    "Unix time in milliseconds": lambda history: (
        "prices.csv",
        number_dates(history, "1970-01-01", timedelta(milliseconds=1))
        .rename(columns={"Date": "open_time"})
        .to_csv(index=False),
        {},
    ),
    "American days": lambda history: (
        "prices.csv",
        format_dates(history, "%m/%d/%Y").to_csv(index=False),
        {},
    ),
    "names of months": lambda history: (
        "prices.csv",
        format_dates(history, "%d-%b-%Y").to_csv(index=False),
        {},
    ),
    "money, newest first": write_money,
    "yfinance, three header lines": lambda history: (
        "download.csv",
        make_symbol_columns(history).to_csv(),
        {},
    ),
    "yfinance, two header lines": lambda history: (
        "download.csv",
        make_symbol_columns(history).rename_axis(index="", columns=["", ""]).to_csv(),
        {},
    ),
    "yfinance by ticker": lambda history: (
        "download.csv",
        make_symbol_columns(history).swaplevel(axis=1).sort_index(axis=1).to_csv(),
        {},
    ),
    "an archive of several files": write_archive,
    "no header": lambda history: (
        "prices.csv",
        history.to_csv(index=False, header=False),
        {"columns": ["symbol,date,open,high,low,close,adjusted,volume"]},
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_ticks_equal_those_of_pandas(tmp_path: Path, name: str) -> None:
    """Prices, volumes, changes and volatility of all days equal those of pandas, without a warning."""
    history = make_history()
    file, content, options = FORMATS[name](history)
    reading = read(tmp_path / file, content, **options)
    assert reading.warnings == []
    table = reading.table
    days = [(symbol, day) for symbol, day, *_ in list_rows(table)]
    assert days == list(zip(history["Symbol"], history["Date"].dt.strftime("%Y-%m-%d"), strict=True))
    ticks = pd.DataFrame(
        asdict(tick)
        for code, symbol in enumerate(table.symbols)
        for tick in build_ticks(table.select(table.rows_of(code)), symbol, ())
    )
    factor = history["Adj Close"] / history["Close"]
    by_symbol = history.groupby("Symbol")["Adj Close"]
    returns = by_symbol.transform(lambda closes: np.log(closes).diff())
    expected = pd.DataFrame(
        {
            "open": history["Open"] * factor,
            "high": history["High"] * factor,
            "low": history["Low"] * factor,
            "change_24h": by_symbol.diff(),
            "change_percent_24h": by_symbol.pct_change() * 100,
            "volatility": returns.groupby(history["Symbol"]).transform(compute_volatility),
        }
    )
    assert (ticks["price"].astype(float) == history["Adj Close"]).all()
    assert (ticks["volume"] == history["Volume"]).all()
    found = ticks[[*expected.columns]].astype(float)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=0.000051)


def compute_volatility(returns: "pd.Series[float]") -> Any:
    """Return the annualised standard deviation of the last 20 returns, in percent."""
    return returns.rolling(20).std() * np.sqrt(252) * 100


def list_documented_names() -> list[tuple[str, str]]:
    """Return each meaning and column name from the table in docs/price-files.md."""
    document = Path(__file__).resolve().parents[2] / "docs" / "price-files.md"
    table = document.read_text(encoding="utf-8").partition("| --- | --- |\n")[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    return [
        (meanings.strip(), name.strip(" `"))
        for meanings, names in rows
        for name in names.replace(";", ",").split(",")
        if "column" not in name
    ]


@pytest.mark.parametrize(("meanings", "name"), list_documented_names())
def test_every_documented_name_is_understood(meanings: str, name: str) -> None:
    """Each documented column name has its documented meaning, also in capitals or in brackets."""
    allowed = {*meanings.split(", "), "time" if name == "Time" else ""}
    for written in (name, name.upper(), f"<{name}>", f" {name}* ", name.replace(" ", "_")):
        found = parse_name(written)
        assert found is not None, written
        assert found.meaning in allowed, written
