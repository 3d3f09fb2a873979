"""Checks of ticks, one by one or many at once.

Owns what a valid tick is. A batch of plain ticks, quotes as a live feed sends them or bars as an
import does, is checked by columns, which takes a third of the time or less; any other is checked
tick by tick, and the first that is wrong is named by its place.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from operator import attrgetter, ge, lt
from typing import Any

from core.errors import InvalidInput
from core.records import Tick
from core.service.inputs import (
    MAX_PRICE,
    MAX_VOLUME,
    MIN_PRICE,
    check_decimal,
    check_price,
    check_records,
    check_symbol,
    check_time_to_write,
    check_whole,
)

_PLAIN = tuple(map(attrgetter, ("symbol", "timestamp", "volume", "price", "bid", "ask")))
_OTHERS = attrgetter("change_24h", "change_percent_24h", "volatility", "open", "high", "low")
_BARS = tuple(map(attrgetter, ("open", "high", "low", "change_24h", "change_percent_24h", "volatility")))
_NOTHING = type(None)

# What tells one tick from another.
find_key = attrgetter("symbol", "timestamp")


def check_ticks(ticks: Any, end: datetime) -> list[Tick]:
    """Return ticks before `end` in their canonical form, the last of each symbol and time, in any order.

    Raises `InvalidInput`, naming the place of the tick.
    """
    given = list(check_records(ticks, Tick, "ticks", "tick"))
    if not are_plain(given, end):
        given = [_check_at(place, tick, end) for place, tick in enumerate(given)]
    return list(dict(zip(map(find_key, given), given, strict=True)).values())


def check_tick(tick: Tick, end: datetime) -> Tick:
    """Return a tick before `end` in its canonical form, or raise `InvalidInput`."""
    checked = Tick(
        symbol=check_symbol(tick.symbol),
        timestamp=check_time_to_write(tick.timestamp, "timestamp", end),
        price=check_price(tick.price, "price"),
        volume=check_whole(tick.volume, "volume", least=0, most=MAX_VOLUME),
        bid=_check_optional_price(tick.bid, "bid"),
        ask=_check_optional_price(tick.ask, "ask"),
        change_24h=_check_change(tick.change_24h, "change_24h"),
        change_percent_24h=_check_change(tick.change_percent_24h, "change_percent_24h"),
        volatility=_check_change(tick.volatility, "volatility", least=Decimal(0)),
        open=_check_optional_price(tick.open, "open"),
        high=_check_optional_price(tick.high, "high"),
        low=_check_optional_price(tick.low, "low"),
    )
    if checked.bid is not None and checked.ask is not None and checked.ask < checked.bid:
        raise InvalidInput(f"ask is {checked.ask}, below the bid {checked.bid}; give ask >= bid")
    ends = [checked.price] if checked.open is None else [checked.price, checked.open]
    if checked.low is not None and checked.low > min(ends):
        raise InvalidInput(f"low is {checked.low}, above {min(ends)}; give low <= open and price")
    if checked.high is not None and checked.high < max(ends):
        raise InvalidInput(f"high is {checked.high}, below {max(ends)}; give high >= open and price")
    return checked


def are_plain(ticks: Sequence[Tick], end: datetime) -> bool:
    """Say whether all ticks are valid as they are, and either quotes or bars with an open, high and low."""
    if not ticks:
        return False
    # a list a column: a tuple a tick would keep the garbage collector busy
    symbols, times, volumes, prices, bids, asks = (list(map(find, ticks)) for find in _PLAIN)
    try:
        return (
            _is_each(datetime, times)
            and set(map(attrgetter("tzinfo"), times)) == {UTC}
            and max(times) < end
            and _is_each(str, symbols)
            and _is_each(int, volumes)
            and min(volumes) >= 0
            and max(volumes) <= MAX_VOLUME
            and _are_prices(prices)
            and all(map(check_symbol, set(symbols)))
            and (_are_quotes(ticks, bids, asks) or _are_bars(ticks, prices, bids + asks))
        )
    except (InvalidInput, InvalidOperation, TypeError):
        # no symbol, or nothing that can be hashed or compared
        return False


def _are_quotes(ticks: Sequence[Tick], bids: Sequence[Any], asks: Sequence[Any]) -> bool:
    return (
        _are_prices(bids)
        and _are_prices(asks)
        and not any(map(lt, asks, bids))
        and set(map(_OTHERS, ticks)) == {(None,) * 6}
    )


def _are_bars(ticks: Sequence[Tick], prices: Sequence[Any], quotes: Sequence[Any]) -> bool:
    opens, highs, lows, changes, percents, volatilities = (list(map(find, ticks)) for find in _BARS)
    return (
        _is_each(_NOTHING, quotes)
        and all(map(_are_prices, (opens, highs, lows)))
        and all(all(map(ge, highs, ends)) and all(map(ge, ends, lows)) for ends in (opens, prices))
        and _are_changes(changes)
        and _are_changes(percents)
        and _are_changes(volatilities, least=Decimal(0))
    )


def _are_changes(values: Sequence[Any], least: Decimal = MIN_PRICE) -> bool:
    known = [value for value in values if value is not None]
    return not known or (
        _is_each(Decimal, known)
        and all(map(Decimal.is_finite, known))
        and min(known) >= least
        and max(known) <= MAX_PRICE
    )


def _are_prices(values: Sequence[Any]) -> bool:
    return (
        _is_each(Decimal, values)
        and all(map(Decimal.is_finite, values))
        and min(values) > 0
        and max(values) <= MAX_PRICE
    )


def _is_each(kind: type, values: Iterable[Any]) -> bool:
    # exactly: a bool is no volume
    return set(map(type, values)) == {kind}


def _check_optional_price(value: Any, name: str) -> Decimal | None:
    return None if value is None else check_price(value, name)


def _check_change(value: Any, name: str, *, least: Decimal = MIN_PRICE) -> Decimal | None:
    return None if value is None else check_decimal(value, name, least=least, most=MAX_PRICE)


def _check_at(place: int, tick: Tick, end: datetime) -> Tick:
    try:
        return check_tick(tick, end)
    except InvalidInput as error:
        raise InvalidInput(f"tick {place}: {error}") from error
