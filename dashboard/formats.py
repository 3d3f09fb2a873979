"""Formats numbers, amounts, names, links and times as text.

Pure functions: they read no data and no clock. Amounts are virtual cash; they have a dollar sign, as prices
do. Every time is UTC.
"""

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from itertools import pairwise
from typing import Literal
from urllib.parse import quote

Unit = Literal["percent", "currency", "count", "number"]
Number = Decimal | float | int

_SPECIAL = "\\`*_{}[]()<>#+-.!|$:~&"
_AUTOMATIC = re.compile(r":(?=[a-z/]|[\w+-]+:)|www(?=\.)|(?<=[\w.+-])@(?=[\w-]+\.)", re.IGNORECASE)
"""Matches text that Streamlit's Markdown turns into a link or an icon: web and e-mail addresses, `:name:`."""
_WORD_JOINER = "\u2060"
"""Invisible character that allows no line break. If it is inside an address, Markdown makes no link."""
_FIRST_STRONG_ISOLATE, _POP_ISOLATE = "\u2068", "\u2069"
_RIGHT_TO_LEFT = frozenset({"R", "AL"})
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Matches invisible characters that change the direction of a text; `escape_markdown` removes them."""


def format_key(key: str) -> str:
    """Write a database key in words: `PRICE_MOVE` becomes `Price move`."""
    return key.replace("_", " ").strip().capitalize() or key


SMALL_PRICE = Decimal("0.1")
"""Prices below this limit are written with more than two decimals."""


def format_money(amount: Number) -> str:
    """Write an amount with two decimals: `$10,000.00`."""
    return f"{_sign(amount).strip('+')}${abs(amount):,.2f}"


def format_price(price: Number) -> str:
    """Write a price with two decimals: `$12.30`. Below 0.1, it has four significant digits: `$0.00001623`."""
    return f"${price:,.{count_price_places([price])}f}"


def count_price_places(prices: Iterable[Number]) -> int:
    """Return how many decimals the smallest price above zero needs; see `format_price`."""
    smallest = min((price for price in prices if price > 0), default=1)
    return 2 if smallest >= SMALL_PRICE else 3 - Decimal(smallest).adjusted()


def format_change(value: Number, *, places: int = 0, unit: str = "", currency: str = "") -> str:
    """Write a change with its sign: `+1,250`, `-0.30 pts`, `+$12.50`. Zero after rounding has no sign."""
    return f"{_sign(value, places)}{currency}{abs(value):,.{places}f}{unit}"


def format_signed_money(amount: Number) -> str:
    """Write a change of an amount with its sign: `+$12.50`."""
    return format_change(amount, places=2, currency="$")


def format_percent(value: Number) -> str:
    """Write a percentage with its sign and two decimals: `+1.25%`."""
    return format_change(value, places=2, unit="%")


def format_share(part: Number, whole: Number, *, places: int = 0) -> str:
    """Write a part of a whole in percent: `80%`, `<1%`, `>99%`; `-` if the whole is zero.

    The result is `0%` only if `part` is exactly zero, and `100%` only if `part` equals `whole`.
    """
    if not whole:
        return "-"
    if part in (0, whole):
        return "100%" if part else "0%"
    percent, smallest = Decimal(part) * 100 / Decimal(whole), 10.0**-places
    text = f"{percent:.{places}f}"
    if 0 < part < whole and not 0 < float(text) < 100:
        return f"<{smallest:.{places}f}%" if 2 * part < whole else f">{100 - smallest:.{places}f}%"
    return f"{text}%" if float(text) else "0%"


def measure_share(part: Number, whole: Number) -> int:
    """Return `part` in integer percent of `whole`: 0 only if it is zero, 100 only if it equals `whole`."""
    if part <= 0:
        return 0
    return 100 if part >= whole else min(max(round(Decimal(part) * 100 / Decimal(whole)), 1), 99)


def format_count(value: Number) -> str:
    """Write a whole number with thousands separators."""
    return f"{value:,.0f}"


def format_quantity(count: int, noun: str) -> str:
    """Write a number with a noun in the singular or plural: `1 session`, `1,200 sessions`."""
    return f"{format_count(count)} {noun}{'' if count == 1 else 's'}"


def format_number(value: Decimal) -> str:
    """Write a number: `1,500` if it is whole, otherwise with two decimals: `1,500.25`."""
    return format_count(value) if value == value.to_integral_value() else f"{value:,.2f}"


def format_amount(amount: Decimal, kind: str) -> str:
    """Write the amount of a reward: as money (`$250.00`) if `kind` is cash, else as a number (`1,500`)."""
    return format_money(amount) if kind.upper() == "CASH" else format_number(amount)


def format_reward(kind: str | None, amount: Decimal | None) -> str:
    """Write a reward: `$250.00 cash`, `1,500 bonus points`, `Badge`. Without kind and amount, it is empty."""
    if amount is None:
        return format_key(kind or "")
    words = (kind or "").replace("_", " ").lower()
    return f"{format_amount(amount, words)} {words}".strip()


def format_points(value: Number) -> str:
    """Write the difference of two percentages with its sign: `+0.30 pts`."""
    return format_change(value, places=2, unit=" pts")


def format_score(score: Number, unit: Unit) -> str:
    """Write a leaderboard's score in the unit of its category."""
    if unit == "percent":
        return format_percent(score)
    if unit == "currency":
        return format_money(score)
    return format_count(score) if unit == "count" else f"{score:,.2f}"


def format_rank_of(rank: int, players: int) -> str:
    """Write a rank among all players: `67 of 1,024`."""
    return f"{rank:,} of {players:,}"


def format_top(rank: int, players: int) -> str:
    """Write the percentage of players at this rank or a better one: `top 3%`, `top 0.1%`."""
    percent = Decimal(100 * rank) / max(players, rank, 1)
    step = Decimal(1) if percent > 1 else Decimal("0.1")
    return f"top {(percent / step).to_integral_value(ROUND_CEILING) * step}%"


def format_day(day: date) -> str:
    """Write a session's date with its weekday: `Fri 1 Mar 2013`."""
    return f"{day:%a} {day.day} {day:%b %Y}"


def format_minute(moment: datetime) -> str:
    """Write a time to the minute: `1 Mar 2013 21:00`."""
    return f"{moment.day} {moment:%b %Y %H:%M}"


def format_as_of(moment: datetime) -> str:
    """Write the time at which values were read: `As of 2013-03-01 21:00:05 UTC`."""
    return f"As of {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_time_left(expires_at: datetime | None, now: datetime) -> str:
    """Write the time until `expires_at`: `3 d 4 h left`, `5 min left` or `ended Fri 1 Mar 2013`.

    The text is empty for None.
    """
    if expires_at is None:
        return ""
    minutes = int((expires_at - now).total_seconds() // 60)
    if minutes < 0:
        return f"ended {format_day(expires_at.astimezone(UTC).date())}"
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h left"
    return f"{hours} h {rest} min left" if hours else f"{rest} min left"


def format_duration(seconds: float) -> str:
    """Write a duration in its two largest units: `14 s`, `3 min 5 s`, `2 h 40 min`, `3 d 4 h`."""
    whole = round(seconds)
    units = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, unit), (smaller, small_unit) in pairwise(units):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size:,} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def is_zero(value: Number) -> bool:
    """Return whether a change with two decimals is shown as zero, so that it is neither a gain nor a loss."""
    return not _sign(value)


def escape_markdown(text: str) -> str:
    """Escape a text from a player or a server, so that Streamlit's Markdown shows it literally, in one line.

    Addresses do not become links, and names such as `:smile:` do not become icons. Right-to-left text is
    isolated, so that it does not change the order of numbers beside it. Invisible characters that change the
    direction of text are removed.
    """
    line = " ".join(_DIRECTIONS.sub("", text).split())
    # a backslash does not prevent a link or an icon: Markdown removes it before it looks for links and icons
    broken = _AUTOMATIC.sub(f"\\g<0>{_WORD_JOINER}", line)
    escaped = "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in broken)
    if any(unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT for letter in line):
        return f"{_FIRST_STRONG_ISOLATE}{escaped}{_POP_ISOLATE}"
    return escaped


def _sign(value: Number, places: int = 2) -> str:
    """Return the sign of a value after rounding, so that `-0.00%` cannot occur."""
    shown = float(f"{value:.{places}f}")
    return "-" if shown < 0 else "+" if shown > 0 else ""


LAST_SESSION = "Last session"
"""The option of the portfolios page's filter `window` that shows only the player's newest session."""


def build_player_link(username: str, window: str | None = None) -> str:
    """Return the address of a player's portfolio, relative to any page; `window` selects the period."""
    chosen = f"&window={quote(window)}" if window else ""
    return f"portfolios?player={quote(username, safe='')}{chosen}"


def build_symbol_link(symbol: str) -> str:
    """Return the address of the market page with this symbol selected, relative to any page."""
    return f"market?symbol={quote(symbol, safe='')}"
