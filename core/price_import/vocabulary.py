"""The vocabulary of price files: column names, currencies, and words in file names.

Never reads a row. When it compares column names, it ignores case, spaces, punctuation, accents, a number in
front such as "1. ", and additional words such as "price" or "(USD)".
"""

import re
import unicodedata
from functools import lru_cache
from pathlib import PurePath
from typing import Final, NamedTuple

from core.models import SYMBOL_PATTERN


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Column names by meaning. Names before a `|` are preferred to names after it: if two columns of a file have
# one meaning, the column with the preferred name is used. The rank of a name is the number of `|` before it.
_COLUMNS: Final = {
    "symbol": """symbol ticker tickersymbol tscode tckrsymb tic tradingsymbol stocksymbol actsymbol
        | code stock stockcode sccode instrument asset pair security 股票代码 代码 证券代码
        | name securityname scname s""",
    "date": """date tradedate tradingdate tradingday traddt datum fecha data 日期 交易日期 日付 날짜
        | datetime timestamp dateandtime
        | time day week month period index window windowstart opentime timeopen bartime zeit
        | unix unixtimestamp unixtime epoch t""",
    "time": "time tradetime hour zeit hora heure",
    "open": """open opening opn opnpric eroffnung eroff eroffn erster ouverture ouv apertura abertura otwarcie
        开盘 开盘价 始値 시가 | o""",
    "high": """high hgh hghpric max maximum hoch tageshoch plushaut haut maximo maxima massimo najwyzszy
        最高 最高价 高 高値 고가 | h""",
    "low": """low lwpric min minimum tief tagestief plusbas bas minimo minima najnizszy
        最低 最低价 低 安値 저가 | l""",
    "close": """close closing clspric closelast schluss schlusskurs cloture cierre fechamento chiusura
        zamkniecie closeclosepriceadjustedforsplits 收盘 收盘价 終値 종가
        | last lastpric latest ltp zuletzt dernier ultimo settle settlement | price c nav""",
    "adjusted": """adjclose adjustedclose closeadj closeadjusted adjusted adj adjclosing adjclsprice
        adjcloseadjustedclosepriceadjustedforsplitsanddividendandorcapitalgaindistributions 复权收盘价""",
    "volume": """volume sharestraded tottrdqty ttltrdqnty ttltradgvol totaltradedquantity tradedquantity
        quantity noofshares numberofshares sharevolume basevolume volumebase volumefrom stuecke stucke
        成交量 交易量 出来高 거래량 | vol wolumen volumen volumes qty | tickvol tickvolume v""",
    "turnover": """turnover amount quotevolume volumequote quoteassetvolume volumeto volumecurrency
        dollarvolume tottrdval ttltrfval totalturnover turnoverlacs tradedvalue 成交额""",
    "split": "splitratio stocksplits stocksplit splitcoefficient splitfactor split splits",
    "currency": "currency ccy curr waehrung wahrung devise moneda 货币",
    "series": "series sctysrs market exchange board interval per",
    "ignored": """prevclose previousclose preclose closetime timeclose timehigh timelow dividend dividends
        divcash exdividend dividendamount openinterest openint capitalgains adjopen adjhigh adjlow adjvolume
        marketcap""",
}
PRICES: Final = ("open", "high", "low", "close")
_SUBSTITUTES: Final = {"adjopen": "open", "adjhigh": "high", "adjlow": "low", "adjvolume": "volume"}
_NOISE: Final = _split("price prices px daily day the in of trade trading total stock shares rs")
# If a column name has one of these words, its price is not the price of the day: for example `52w high`.
_OTHER_PRICES: Final = _split(
    """bid ask mid prev previous pre next first avg average mean vwap sma ema ma wma raw unadj unadjusted week
    year 52w 52 day settle upper lower change chg pct true typical heikin ashi ha log no net weighted
    deliverable deliv delivery time"""
)
_LOOSE_RANK: Final = 2
"""Column names whose rank is this number or larger are ambiguous: files also use them with other meanings."""

CURRENCIES: Final = _split(
    """USD EUR GBP GBX JPY CNY CNH HKD INR KRW TWD SGD AUD NZD CAD CHF SEK NOK DKK PLN CZK HUF RUB TRY ZAR BRL
    MXN ARS CLP COP PEN THB IDR MYR PHP VND ILS SAR AED QAR EGP NGN KES PKR LKR BDT USDT USDC BUSD TUSD FDUSD
    DAI BTC ETH BNB"""
)
_FILE_WORDS: Final = _split(
    """daily day days d d1 1d 1day weekly week w w1 1w 1wk monthly month m mn1 1mo 1m hourly hour h h1 h4 1h
    4h 1hour m1 m5 m15 m30 1min 5min 15min 30min 60min min minute minutes intraday adjusted adj unadjusted
    full max hist history historical historicaldata data price prices stock stocks quote quotes table export
    issue test tests volume ticks tick raw clean output result results demo example backup my
    download sample ohlc ohlcv candles klines bars eod us spot all chart charts from to until the and of copy
    yahoo yahoofinance finance yf stooq nasdaq binance bitstamp coinbase kraken gemini bitfinex bybit okx
    poloniex bittrex quandl wiki tiingo polygon alphavantage investing iex eodhd dat ascii mt mt4 mt5
    """
)
MAX_GUESS: Final = 15
"""A word in a file name is probably not a symbol if it has more letters than this."""

SUFFIXES: Final = "csv|txt|tsv|tab|psv|dat|data|asc|prn|gz|bz2|xz|zip"
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
_FILE_DATE = re.compile(
    rf"(?:19|20)\d\d(?:-?(?:0[1-9]|1[0-2])(?:-?\d\d)?)?(?:q[1-4])?|\d{{7,}}|\d{{1,3}}"
    rf"|(?:\d\d?)?(?:{_MONTHS.replace(' ', '|')})[a-z]*(?:\d\d|\d{{4}})?"
)
_SYMBOL = re.compile(SYMBOL_PATTERN + r"\Z")
_NO_SYMBOLS: Final = frozenset(("", "-", "nan", "NaN", "null", "None", "N/A", "#N/A"))
_SYMBOL_NAME = re.compile(r"[$^.@#]?[A-Za-z0-9][A-Za-z0-9.^=:&_@#$!+-]*")


class Name(NamedTuple):
    """The meaning of a column name, such as "close".

    `rank` is 0 for the preferred names of a meaning. Of two columns with the same meaning, the one with the
    lower rank is used. `affix` is the rest of the name in capitals, such as AAPL in `AAPL.Open`.
    """

    meaning: str
    rank: int
    affix: str = ""
    currency: str = ""


def _compact(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in plain if letter.isalnum())


_MEANINGS: Final = {
    name: Name(meaning, rank)
    for meaning, names in _COLUMNS.items()
    for rank, group in enumerate(names.split("|"))
    for name in map(_compact, group.split())
}


@lru_cache(maxsize=4096)
def parse_name(name: str) -> Name | None:
    """Return the meaning of a column name, or None for an unknown name."""
    plain = re.sub(r"^\s*\d+[a-z]?\.\s+", "", name)
    if found := _MEANINGS.get(_compact(plain)):
        return found
    return _parse_without_noise(plain) or _parse_with_affix(plain)


def _parse_without_noise(name: str) -> Name | None:
    words = [word for word in re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)) if word]
    currency = next((word.upper() for word in words if word.upper() in CURRENCIES), "")
    rest = [word for word in words if word.upper() != currency and word.casefold() not in _NOISE]
    found = _MEANINGS.get(_compact("".join(rest)))
    if found is None and {"date", "datetime", "timestamp"} & {word.casefold() for word in words}:
        return Name("date", _LOOSE_RANK + 1)
    if found is None or not rest:
        return None
    if found.meaning in {"volume", "turnover"} and currency:
        return found._replace(affix=currency)
    return found._replace(rank=found.rank + 10, currency=currency)


def _parse_with_affix(name: str) -> Name | None:
    places = [place for place, letter in enumerate(name) if letter in " _.,|-:()'\""]
    before = [(name[place:], name[:place]) for place in places]
    behind = [(name[:place], name[place + 1 :]) for place in reversed(places)]
    for word, around in before + behind:
        found = _MEANINGS.get(_compact(word))
        # ignore ambiguous names here: a "unit price" is not the price of a day
        if found and is_price(found) and found.rank < _LOOSE_RANK and (affix := _parse_affix(around)):
            return found._replace(affix=affix)
    return None


def is_price(name: Name | None) -> bool:
    """Return whether a column has values of one symbol: prices, volumes, or unused values like dividends."""
    return name is not None and name.meaning in {*PRICES, "adjusted", "volume", "ignored"}


def _parse_affix(text: str) -> str:
    affix = text.strip(" _,|()'\"").upper()
    is_other = any(word.casefold() in _OTHER_PRICES for word in re.split(r"[\W_]+", affix))
    return affix if _SYMBOL_NAME.fullmatch(affix) and not is_other else ""


def parse_symbol(text: str) -> str | None:
    """Return a symbol in capitals, or None for a text that is not a symbol."""
    symbol = text.strip().upper()
    if text in _NO_SYMBOLS or not _SYMBOL.match(symbol):
        return None
    return symbol


def parse_substitute(name: str) -> str | None:
    """Return "open" for `Adj Open`, "high" for `Adj High` and so on, or None for another column name.

    For example, a file without another column for the open uses `Adj Open` as the open.
    """
    return _SUBSTITUTES.get(_compact(name))


def parse_currency(text: str) -> str | None:
    """Return a code of three to five letters in capitals, or None for another text. Pence (GBp) are GBX."""
    if text in {"GBp", "GBx", "p"}:
        return "GBX"
    return text.upper() if re.fullmatch(r"[A-Za-z]{3,5}", text) else None


def guess_symbol(file: str) -> str | None:
    """Return the symbol in a file name, such as AAPL in `aapl.csv` or `AAPL_2010-2020.csv`.

    Ignores dates, intervals, vendors and words such as "history". Returns None if the rest is not one symbol.
    """
    stem = re.sub(rf"(\.({SUFFIXES}))+$", "", PurePath(file).name, flags=re.IGNORECASE)
    stem = re.sub(r"\(\d+\)", " ", stem)
    found = list(filter(None, map(_strip_words, re.split(r"[ _()\[\],]+", stem))))
    if len(found) == 2 and (len(found[1]) == 1 or found[1].upper() in CURRENCIES):
        found = ["_".join(found)]  # join the two words of one symbol, such as BRK_A
    if len(found) != 1 or not _SYMBOL_NAME.fullmatch(found[0]) or len(found[0]) > MAX_GUESS:
        return None
    symbol = re.sub(r"(?<=[A-Z]{6})(1|5|15|30|60|240|1440|10080|43200)$", "", found[0].upper())
    return None if re.fullmatch(r"\d{1,3}|[\W_]+", symbol) else symbol


def _strip_words(part: str) -> str:
    kept = [
        word
        for word in part.split("-")
        if word.casefold() not in _FILE_WORDS and not _FILE_DATE.fullmatch(word.casefold())
    ]
    return "-".join(kept)
