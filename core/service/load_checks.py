"""Checks of the records of bulk loads, a chunk at a time.

Owns what a valid record of each kind is. A chunk is looked at by columns, which costs a tenth of
looking at each value; where a column has anything but plain valid values, every record of the
chunk is checked by itself, values of other libraries become plain ones, and the first wrong record
is named by its place.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation, localcontext
from itertools import repeat
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from frozendict import frozendict

from core.errors import InvalidInput
from core.models import QUEST_STATUSES, TRADE_SIDES
from core.records import LeaderboardEntry, MarketEvent, Portfolio, Position, Quest, Tick, Trade, User, freeze
from core.service.inputs import (
    CENT,
    MAX_DESCRIPTION,
    MAX_IMPACT,
    MAX_MONEY,
    MAX_NAME,
    MAX_PRICE,
    MIN_IMPACT,
    MIN_MONEY,
    ROUNDING,
    SMALLEST_PRICE,
    check_category,
    check_choice,
    check_decimal,
    check_document,
    check_email,
    check_id,
    check_price,
    check_sentiment,
    check_session_to_write,
    check_symbol,
    check_symbols,
    check_text,
    check_time,
    check_time_to_write,
    check_username,
    check_whole,
    find_end_of_time,
    find_last_session,
)
from core.service.tick_checks import are_plain, check_tick

T = TypeVar("T", bound=msgspec.Struct)
Values = Sequence[Any]

MAX_RANK = 2**31 - 1
MAX_PERCENT = Decimal("999999999999999999.99")  # numeric(20, 2)
MIN_PERCENT = MAX_PERCENT.copy_negate()
_NOTHING = type(None)


class Column(NamedTuple):
    """How the values of one field are checked.

    `check` returns one value as a plain one or raises `InvalidInput`. `is_plain` says of many values
    of exactly the type `kind` whether all are valid as they are; without it each is checked.
    """

    check: Callable[[Any, str, datetime], Any]
    kind: type = _NOTHING
    is_plain: Callable[[Values, datetime], bool] | None = None
    is_optional: bool = False


class RecordChecks(NamedTuple, Generic[T]):
    """How the records of one kind are checked: by columns, or by checks that know the kind."""

    columns: Mapping[str, Column]
    are_plain: Callable[[Sequence[T], datetime], bool] | None = None
    check: Callable[[T, datetime], T] | None = None


def check_chunk(
    records: Sequence[T], checks: RecordChecks[T], *, element: str, start: int, now: datetime
) -> Sequence[T]:
    """Return records with plain values; `start` is the place of the first of them in the load.

    Raises `InvalidInput`, naming the first wrong record by its place.
    """
    if checks.are_plain is None:
        is_plain = _are_plain(records, checks.columns, now)
    else:
        is_plain = checks.are_plain(records, now)
    if is_plain:
        return records
    return [_check_at(place, record, checks, element, now) for place, record in enumerate(records, start)]


def _are_plain(records: Sequence[Any], columns: Mapping[str, Column], now: datetime) -> bool:
    try:
        with localcontext(ROUNDING):
            return all(
                _is_plain(list(map(attrgetter(name), records)), column, now)
                for name, column in columns.items()
            )
    except (InvalidInput, InvalidOperation, TypeError, UnicodeError):
        # a value that cannot be compared, hashed or encoded
        return False


def _is_plain(values: Values, column: Column, now: datetime) -> bool:
    kinds = set(map(type, values))
    if column.is_optional and _NOTHING in kinds:
        kinds.discard(_NOTHING)
        values = [value for value in values if value is not None]
    if not values:
        return True
    return kinds == {column.kind} and column.is_plain is not None and column.is_plain(values, now)


def _check_at(place: int, record: T, checks: RecordChecks[T], element: str, now: datetime) -> T:
    try:
        if checks.check is not None:
            return checks.check(record, now)
        changes = {}
        for name, column in checks.columns.items():
            value = getattr(record, name)
            if value is None and column.is_optional:
                continue
            checked = column.check(value, name, now)
            if checked is not value:
                changes[name] = checked
    except InvalidInput as error:
        raise InvalidInput(f"{element} {place}: {error}") from error
    return msgspec.structs.replace(record, **changes) if changes else record


# -- kinds of columns -------------------------------------------------------------------


def _ids() -> Column:
    return Column(lambda value, name, _: check_id(value, name), UUID, lambda _, __: True)


def _sessions() -> Column:
    return Column(
        lambda value, name, now: check_session_to_write(_require(value, name), now),
        date,
        lambda values, now: max(values) <= find_last_session(now),
    )


def _times(*, is_optional: bool = False) -> Column:
    return Column(
        lambda value, name, now: check_time_to_write(value, name, find_end_of_time(now)),
        datetime,
        lambda values, now: _are_utc(values) and max(values) < find_end_of_time(now),
        is_optional,
    )


def _deadlines() -> Column:
    return Column(
        lambda value, name, _: check_time(value, name), datetime, lambda values, _: _are_utc(values), True
    )


def _amounts(least: Decimal, most: Decimal, *, is_optional: bool = False) -> Column:
    def are_plain(values: Values, _: datetime) -> bool:
        # of nothing but cents: the server would round half up, and everybody else rounds half-even
        are_cents = all(map(Decimal.same_quantum, values, repeat(CENT))) or _round(values) == values
        return are_cents and least <= min(values) and max(values) <= most

    return Column(
        lambda value, name, _: check_decimal(value, name, least=least, most=most, quantum=CENT),
        Decimal,
        are_plain,
        is_optional,
    )


def _prices() -> Column:
    return Column(
        lambda value, name, _: check_price(value, name),
        Decimal,
        lambda values, _: min(values) >= SMALLEST_PRICE and max(values) <= MAX_PRICE,
    )


def _texts(most: int, *, is_optional: bool = False) -> Column:
    def are_plain(values: Values, _: datetime) -> bool:
        sizes = set(map(len, values))
        joined = "".join(values)
        return 0 not in sizes and max(sizes) <= most and "\x00" not in joined and bool(joined.encode())

    return Column(lambda value, name, _: check_text(value, name, most=most), str, are_plain, is_optional)


def _names(check: Callable[[Any, str], str]) -> Column:
    """Texts of which a chunk has few different ones."""
    return Column(
        lambda value, name, _: check(value, name),
        str,
        lambda values, _: all(check(value, "") == value for value in set(values)),
    )


def _numbers(least: int, most: int, *, is_optional: bool = False) -> Column:
    return Column(
        lambda value, name, _: check_whole(value, name, least=least, most=most),
        int,
        lambda values, _: least <= min(values) and max(values) <= most,
        is_optional,
    )


def _documents() -> Column:
    # those with content are looked at one by one
    return Column(
        lambda value, name, _: freeze(check_document(value, name)),
        frozendict,
        lambda values, _: not any(values),
    )


def _require(value: Any, name: str) -> Any:
    if value is None:
        raise InvalidInput(f"{name} is None; give a datetime.date")
    return value


def _are_utc(times: Values) -> bool:
    return set(map(attrgetter("tzinfo"), times)) == {UTC}


def _round(amounts: Values) -> list[Decimal]:
    return list(map(Decimal.quantize, amounts, repeat(CENT)))


# -- kinds of records -------------------------------------------------------------------


USERS: RecordChecks[User] = RecordChecks(
    {
        "id": _ids(),
        "username": Column(lambda value, _, __: check_username(value)),
        "name": _texts(MAX_NAME, is_optional=True),
        "email": Column(lambda value, _, __: check_email(value), is_optional=True),
        "last_active": _times(is_optional=True),
        "preferences": _documents(),
        "created_at": _times(),
        "updated_at": _times(),
    }
)
TICKS: RecordChecks[Tick] = RecordChecks(
    {},
    are_plain=lambda ticks, now: are_plain(ticks, find_end_of_time(now)),
    check=lambda tick, now: check_tick(tick, find_end_of_time(now)),
)
PORTFOLIOS: RecordChecks[Portfolio] = RecordChecks(
    {
        "id": _ids(),
        "user_id": _ids(),
        "session_date": _sessions(),
        **dict.fromkeys(("starting_cash", "current_cash", "total_value"), _amounts(Decimal(0), MAX_MONEY)),
        "day_change": _amounts(MIN_MONEY, MAX_MONEY),
        "day_change_percent": _amounts(MIN_PERCENT, MAX_PERCENT),
        "created_at": _times(),
        "updated_at": _times(),
    }
)
POSITIONS: RecordChecks[Position] = RecordChecks(
    {
        "user_id": _ids(),
        "session_date": _sessions(),
        "symbol": _names(lambda value, _: check_symbol(value)),
        "quantity": _prices(),
        "average_price": _prices(),
    }
)
TRADES: RecordChecks[Trade] = RecordChecks(
    {
        "id": _ids(),
        "user_id": _ids(),
        "session_date": _sessions(),
        "symbol": _names(lambda value, _: check_symbol(value)),
        "side": _names(lambda value, name: check_choice(value, name, TRADE_SIDES)),
        "quantity": _prices(),
        "price": _prices(),
        "executed_at": _times(),
    }
)
LEADERBOARD_ENTRIES: RecordChecks[LeaderboardEntry] = RecordChecks(
    {
        "id": _ids(),
        "user_id": _ids(),
        "session_date": _sessions(),
        "category": _names(check_category),
        "score": _amounts(MIN_MONEY, MAX_MONEY),
        "rank": _numbers(1, MAX_RANK, is_optional=True),
        "metadata": _documents(),
        "created_at": _times(),
    }
)
QUESTS: RecordChecks[Quest] = RecordChecks(
    {
        "id": _ids(),
        "user_id": _ids(),
        "type": _texts(50),
        "title": _texts(200),
        "description": _texts(MAX_DESCRIPTION, is_optional=True),
        "target_value": _amounts(CENT, MAX_MONEY),
        "current_progress": _amounts(Decimal(0), MAX_MONEY),
        "status": _names(lambda value, name: check_choice(value, name, QUEST_STATUSES)),
        "reward_type": _texts(50, is_optional=True),
        "reward_value": _amounts(Decimal(0), MAX_MONEY, is_optional=True),
        "created_at": _times(),
        "expires_at": _deadlines(),
    }
)
MARKET_EVENTS: RecordChecks[MarketEvent] = RecordChecks(
    {
        "id": _ids(),
        "type": _texts(50),
        "title": _texts(200),
        "description": _texts(MAX_DESCRIPTION, is_optional=True),
        "affected_symbols": Column(lambda value, name, _: tuple(check_symbols(value, name))),
        "impact_magnitude": _amounts(MIN_IMPACT, MAX_IMPACT, is_optional=True),
        "sentiment": _names(lambda value, _: check_sentiment(value)),
        "created_at": _times(),
    }
)
