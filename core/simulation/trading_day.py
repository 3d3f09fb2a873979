"""When a trading day opens and closes.

Owns the one convention that puts a date of a price file on the time axis.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

OPEN_TIME: Final = time(14, 30, tzinfo=UTC)
CLOSE_TIME: Final = time(21, 0, tzinfo=UTC)
"""New York trades from 09:30 to 16:00: 14:30 to 21:00 UTC, an hour earlier in summer.

One fixed time is used all year, so that a day's tick is found by its date alone.
"""

TRADING_DAYS_PER_YEAR: Final = 252


def open_of(day: date) -> datetime:
    """Return the instant at which a trading day opens."""
    return datetime.combine(day, OPEN_TIME)


def close_of(day: date) -> datetime:
    """Return the instant at which a trading day closes; its tick has this timestamp."""
    return datetime.combine(day, CLOSE_TIME)


def last_closed_day(now: datetime) -> date:
    """Return the last day whose close is not after `now`."""
    today = now.astimezone(UTC).date()
    return today if close_of(today) <= now else today - timedelta(days=1)
