"""The times at which a trading day of New York opens and closes, and at which a live session begins."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

MARKET_ZONE: Final = ZoneInfo("America/New_York")
OPEN_TIME: Final = time(9, 30, tzinfo=MARKET_ZONE)
CLOSE_TIME: Final = time(16, 0, tzinfo=MARKET_ZONE)
"""The close in New York. Trading is from 14:30 to 21:00 UTC, or 13:30 to 20:00 UTC in daylight saving time.

All imported days have these times, so the time of a day's tick depends only on the date.
"""

CACHED_DAYS: Final = 50_000
"""The number of opens, and of closes, that are cached: more than a century of days."""


def midnight_of(day: date) -> datetime:
    """Return the instant at which the live session of a day begins: midnight UTC."""
    return datetime.combine(day, time(0), UTC)


@lru_cache(CACHED_DAYS)
def open_of(day: date) -> datetime:
    """Return the instant at which a trading day opens."""
    return datetime.combine(day, OPEN_TIME).astimezone(UTC)


@lru_cache(CACHED_DAYS)
def close_of(day: date) -> datetime:
    """Return the instant at which a trading day closes. The tick of an imported day has this timestamp."""
    return datetime.combine(day, CLOSE_TIME).astimezone(UTC)


def to_standard_time(moment: datetime) -> datetime:
    """Move an instant one hour later if New York has daylight saving time at that instant.

    After this move, all opens have the same UTC time of day.
    """
    return moment + (moment.astimezone(MARKET_ZONE).dst() or timedelta(0))


def last_closed_day(now: datetime) -> date:
    """Return the last day whose close is not after `now`."""
    today = now.astimezone(UTC).date()
    return today if close_of(today) <= now else today - timedelta(days=1)
