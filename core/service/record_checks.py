"""Checks of records: the rows of bulk loads, and batches of ticks and portfolio updates.

Owns the rules for a valid record of each kind. A value is plain if it is valid and has exactly the Python
type of its column. A chunk of records is first checked column by column, which takes a tenth of the time of
checking each value. If a value of a column is not plain, for example one of numpy, each record of the chunk
is checked by itself: values of other libraries become plain values, and an error has the index of the first
wrong record.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation, localcontext
from itertools import repeat
from operator import attrgetter, ge
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from frozendict import frozendict

from core.errors import InvalidInput
from core.records import (
    QUEST_STATUSES,
    TRADE_SIDES,
    LeaderboardEntry,
    MarketEvent,
    Portfolio,
    PortfolioUpdate,
    Position,
    Quest,
    Tick,
    Trade,
    User,
    freeze,
)
from core.service.argument_checks import (
    ARITHMETIC,
    CENT,
    MAX_DESCRIPTION,
    MAX_IMPACT,
    MAX_MONEY,
    MAX_NAME,
    MAX_PRICE,
    MAX_VOLUME,
    MIN_CHANGE,
    MIN_IMPACT,
    MIN_MONEY,
    MIN_PRICE,
    check_category,
    check_choice,
    check_decimal,
    check_document,
    check_email,
    check_id,
    check_in_order,
    check_int,
    check_price,
    check_records,
    check_sentiment,
    check_session_to_write,
    check_symbol,
    check_symbols,
    check_text,
    check_time,
    check_time_to_write,
    check_username,
    find_end_of_tomorrow,
    find_last_session,
)

T = TypeVar("T", bound=msgspec.Struct)
Values = Sequence[Any]

MAX_RANK = 2**31 - 1
MAX_PERCENT = Decimal("999999999999999999.99")  # numeric(20, 2)
MIN_PERCENT = MAX_PERCENT.copy_negate()
_NOTHING = type(None)


class Column(NamedTuple):
    """How the values of one field are checked.

    `check` gets a value, the name of the field and the current time. It returns the plain value or raises
    `InvalidInput`. `is_plain` gets many values of exactly the type `kind`, and the current time. It says
    whether all of them are valid. Without `is_plain`, each value is checked by `check`.
    """

    check: Callable[[Any, str, datetime], Any]
    kind: type = _NOTHING
    is_plain: Callable[[Values, datetime], bool] | None = None
    is_optional: bool = False


class RecordChecks(NamedTuple, Generic[T]):
    """How the records of one kind are checked.

    `columns` has the checks of each field. `check_row` raises `InvalidInput` for a record whose values
    contradict each other, such as an ask below the bid. `are_rows_plain` makes the same check on whole
    columns: it returns True if no record contradicts itself. After False or a `TypeError`, each record is
    checked.
    """

    columns: Mapping[str, Column]
    are_rows_plain: Callable[[Mapping[str, Values]], bool] = lambda _: True
    check_row: Callable[[T], object] = lambda _: None


def check_chunk(
    records: Sequence[T], checks: RecordChecks[T], *, element: str, now: datetime, start: int = 0
) -> Sequence[T]:
    """Return the records of a chunk with plain values.

    `element` is the word for one record in messages. `start` is the index that the first record of the chunk
    has in the batch. Raises `InvalidInput` with the index of the first wrong record, such as `tick 3`.
    """
    if not records or _are_plain(records, checks, now):
        return records
    return check_in_order(records, element, lambda record: check_one(record, checks, now), start=start)


def _are_plain(records: Sequence[T], checks: RecordChecks[T], now: datetime) -> bool:
    values = {name: list(map(attrgetter(name), records)) for name in checks.columns}
    try:
        with localcontext(ARITHMETIC):
            return all(
                _is_plain(values[name], column, now) for name, column in checks.columns.items()
            ) and checks.are_rows_plain(values)
    except (InvalidInput, InvalidOperation, TypeError, UnicodeError):
        # a value is invalid, or cannot be compared, hashed or encoded
        return False


def _is_plain(values: Values, column: Column, now: datetime) -> bool:
    kinds = set(map(type, values))
    if column.is_optional and _NOTHING in kinds:
        kinds.discard(_NOTHING)
        values = [value for value in values if value is not None] if kinds else ()
    if not values:
        return True
    return kinds == {column.kind} and column.is_plain is not None and column.is_plain(values, now)


def check_one(record: T, checks: RecordChecks[T], now: datetime) -> T:
    """Return a record with plain values, or raise `InvalidInput`."""
    changes = {}
    for name, column in checks.columns.items():
        value = getattr(record, name)
        if value is None and column.is_optional:
            continue
        checked = column.check(value, name, now)
        if checked is not value:
            changes[name] = checked
    if changes:
        record = msgspec.structs.replace(record, **changes)
    checks.check_row(record)
    return record


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
        lambda value, name, now: check_time_to_write(value, name, find_end_of_tomorrow(now)),
        datetime,
        lambda values, now: _are_utc(values) and max(values) < find_end_of_tomorrow(now),
        is_optional,
    )


def _deadlines() -> Column:
    return Column(
        lambda value, name, _: check_time(value, name), datetime, lambda values, _: _are_utc(values), True
    )


def _amounts(minimum: Decimal, maximum: Decimal, *, is_optional: bool = False) -> Column:
    def are_plain(values: Values, _: datetime) -> bool:
        # An amount with more than two decimals is not plain: `check` rounds it half-even, and the server
        # would round half up.
        are_cents = all(map(Decimal.same_quantum, values, repeat(CENT))) or _round(values) == values
        return are_cents and minimum <= min(values) and max(values) <= maximum

    return Column(
        lambda value, name, _: check_decimal(value, name, minimum=minimum, maximum=maximum, quantum=CENT),
        Decimal,
        are_plain,
        is_optional,
    )


def _prices(*, is_optional: bool = False) -> Column:
    return Column(
        lambda value, name, _: check_price(value, name),
        Decimal,
        lambda values, _: min(values) >= MIN_PRICE and max(values) <= MAX_PRICE,
        is_optional,
    )


def _changes(minimum: Decimal) -> Column:
    """Return the checks of optional numbers that keep all their digits, such as `change_24h`."""
    return Column(
        lambda value, name, _: check_decimal(value, name, minimum=minimum, maximum=MAX_PRICE),
        Decimal,
        lambda values, _: min(values) >= minimum and max(values) <= MAX_PRICE,
        is_optional=True,
    )


def _texts(max_length: int, *, is_optional: bool = False) -> Column:
    def are_plain(values: Values, _: datetime) -> bool:
        sizes = set(map(len, values))
        joined = "".join(values)
        return 0 not in sizes and max(sizes) <= max_length and "\x00" not in joined and bool(joined.encode())

    return Column(
        lambda value, name, _: check_text(value, name, max_length=max_length), str, are_plain, is_optional
    )


def _names(check: Callable[[Any, str], str]) -> Column:
    """Return the checks of strings that repeat, such as symbols: each different string is checked once."""
    return Column(
        lambda value, name, _: check(value, name),
        str,
        lambda values, _: all(check(value, "") == value for value in set(values)),
    )


def _numbers(minimum: int, maximum: int, *, is_optional: bool = False) -> Column:
    return Column(
        lambda value, name, _: check_int(value, name, minimum=minimum, maximum=maximum),
        int,
        lambda values, _: minimum <= min(values) and max(values) <= maximum,
        is_optional,
    )


def _documents() -> Column:
    # Only a column of empty documents counts as plain. Any other document is checked value by value.
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


def _is_each_at_least(highs: Values, lows: Values) -> bool:
    """Say whether each value of `highs` is at least the value of `lows` in the same record.

    True if all values of a column are None. Raises `TypeError` if only some of them are None.
    """
    if set(map(type, highs)) == {_NOTHING} or set(map(type, lows)) == {_NOTHING}:
        return True
    return all(map(ge, highs, lows))


def _check_prices(tick: Tick) -> None:
    if tick.bid is not None and tick.ask is not None and tick.ask < tick.bid:
        raise InvalidInput(f"ask is {tick.ask}, below the bid {tick.bid}; give ask >= bid")
    ends = [tick.price] if tick.open is None else [tick.price, tick.open]
    if tick.low is not None and tick.low > min(ends):
        raise InvalidInput(f"low is {tick.low}, above {min(ends)}; give low <= open and price")
    if tick.high is not None and tick.high < max(ends):
        raise InvalidInput(f"high is {tick.high}, below {max(ends)}; give high >= open and price")


def _check_completion(quest: Quest) -> None:
    completed = quest.completed_at
    if completed is not None and quest.status != "COMPLETED":
        raise InvalidInput(
            f"completed_at is {completed}, but status is {quest.status}; give None or the status COMPLETED"
        )
    if completed is not None and completed < quest.created_at:
        raise InvalidInput(
            f"completed_at is {completed}, before created_at {quest.created_at}; give a later time"
        )


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
    {
        "symbol": _names(lambda value, _: check_symbol(value)),
        "timestamp": _times(),
        "price": _prices(),
        "volume": _numbers(0, MAX_VOLUME),
        **dict.fromkeys(("bid", "ask"), _prices(is_optional=True)),
        **dict.fromkeys(("change_24h", "change_percent_24h"), _changes(MIN_CHANGE)),
        "volatility": _changes(Decimal(0)),
        **dict.fromkeys(("open", "high", "low"), _prices(is_optional=True)),
    },
    are_rows_plain=lambda values: all(
        _is_each_at_least(values[high], values[low])
        for high, low in (
            ("ask", "bid"),
            ("high", "price"),
            ("high", "open"),
            ("price", "low"),
            ("open", "low"),
        )
    ),
    check_row=_check_prices,
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
        "completed_at": _times(is_optional=True),
    },
    are_rows_plain=lambda values: all(
        completed is None or (status == "COMPLETED" and completed >= created)
        for completed, status, created in zip(
            values["completed_at"], values["status"], values["created_at"], strict=True
        )
    ),
    check_row=_check_completion,
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
PORTFOLIO_UPDATES: RecordChecks[PortfolioUpdate] = RecordChecks(
    {
        "user_id": _ids(),
        "session_date": _sessions(),
        "total_value": _amounts(Decimal(0), MAX_MONEY),
        "day_change": _amounts(MIN_MONEY, MAX_MONEY),
        "current_cash": _amounts(Decimal(0), MAX_MONEY, is_optional=True),
    }
)


# -- ticks and portfolio updates ------------------------------------------------------------

find_key = attrgetter("symbol", "timestamp")
# Bits that hold the ordinal of any date: the ordinal of `date.max` has 22 bits.
DATE_BITS = 22


def check_ticks(ticks: Any, now: datetime) -> list[Tick]:
    """Return the ticks with plain values, in no particular order.

    Of several ticks with the same symbol and time, only the last is returned. Raises `InvalidInput` with the
    index of the wrong tick.
    """
    given = list(check_records(ticks, Tick, "ticks", "tick"))
    checked = check_chunk(given, TICKS, element="tick", now=now)
    return list(dict(zip(map(find_key, checked), checked, strict=True)).values())


def check_updates(updates: Any, now: datetime) -> list[PortfolioUpdate]:
    """Return the updates with plain values, ordered by user and session.

    Of several updates of one portfolio, only the last is returned. All batches have the same order, which
    prevents deadlocks between them. Raises `InvalidInput` with the index of the wrong update.
    """
    given = list(check_records(updates, PortfolioUpdate, "updates", "update"))
    checked = check_chunk(given, PORTFOLIO_UPDATES, element="update", now=now)
    last = {_make_sort_key(update): update for update in checked}
    return [last[number] for number in sorted(last)]


def _make_sort_key(update: PortfolioUpdate) -> int:
    """Return an int that sorts by user, then by session. Comparing UUIDs would take much longer."""
    number: int = update.user_id.int << DATE_BITS | update.session_date.toordinal()  # type: ignore[union-attr]  # a UUID after the check
    return number
