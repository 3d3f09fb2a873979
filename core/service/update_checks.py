"""Checks of portfolio updates, one by one or many at once.

Owns what a valid update is, and the order in which batches write. A batch of plain updates, as
a game sends them, is checked by columns; any other is checked update by update, and the first that is
wrong is named by its place.
"""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import repeat
from typing import Any
from uuid import UUID

from core.errors import InvalidInput
from core.records import PortfolioUpdate
from core.service.inputs import (
    CENT,
    MAX_MONEY,
    MIN_MONEY,
    check_id,
    check_money,
    check_records,
    check_session_to_write,
    find_last_session,
)

# more than the last day that Python has
DAY_BITS = 22


def check_updates(updates: Any, now: datetime) -> list[PortfolioUpdate]:
    """Return updates in their canonical form, the last of each portfolio, by user and session.

    One order everywhere: two batches do not wait for each other in a circle. Raises `InvalidInput`,
    naming the place of the update.
    """
    given = list(check_records(updates, PortfolioUpdate, "updates", "update"))
    if not _are_plain(given, find_last_session(now)):
        given = [_check_at(place, update, now) for place, update in enumerate(given)]
    last = {_number(update): update for update in given}
    return [last[number] for number in sorted(last)]


def check_update(update: PortfolioUpdate, now: datetime) -> PortfolioUpdate:
    """Return an update in its canonical form, or raise `InvalidInput`."""
    if update.session_date is None:
        raise InvalidInput("session_date is None; give a datetime.date")
    return PortfolioUpdate(
        user_id=check_id(update.user_id, "user_id"),
        session_date=check_session_to_write(update.session_date, now),
        total_value=check_money(update.total_value, "total_value"),
        day_change=check_money(update.day_change, "day_change", signed=True),
        current_cash=(
            None if update.current_cash is None else check_money(update.current_cash, "current_cash")
        ),
    )


def _number(update: PortfolioUpdate) -> int:
    """Return a number that orders by user, then session: numbers are compared much faster than ids."""
    number: int = update.user_id.int << DAY_BITS | update.session_date.toordinal()  # type: ignore[union-attr]  # no text is left
    return number


def _are_plain(updates: Sequence[PortfolioUpdate], last_session: date) -> bool:
    """Say whether all updates are valid as they are."""
    days = [update.session_date for update in updates]
    cash = [update.current_cash for update in updates]
    return (
        {type(update.user_id) for update in updates} == {UUID}
        and set(map(type, days)) == {date}
        and max(days) <= last_session
        and _are_amounts([update.total_value for update in updates], least=Decimal(0))
        and _are_amounts([update.day_change for update in updates], least=MIN_MONEY)
        and (set(map(type, cash)) == {type(None)} or _are_amounts(cash, least=Decimal(0)))
    )


def _are_amounts(values: list[Any], *, least: Decimal) -> bool:
    """Say whether all values are whole cents between `least` and the largest amount."""
    return (
        set(map(type, values)) == {Decimal}
        and all(map(Decimal.is_finite, values))
        and min(values) >= least
        and max(values) <= MAX_MONEY
        and list(map(Decimal.quantize, values, repeat(CENT))) == values
    )


def _check_at(place: int, update: PortfolioUpdate, now: datetime) -> PortfolioUpdate:
    try:
        return check_update(update, now)
    except InvalidInput as error:
        raise InvalidInput(f"update {place}: {error}") from error
