"""Moves the days of imported history towards today.

Owns by how much: whole weeks, so that weekdays stay what they were, and once moved the same
for every later import. Reads no file and writes no tick.
"""

from datetime import date, timedelta

from core.errors import InvalidInput
from core.service import EnhancedDatabaseService
from core.simulation.price_reading import PriceReading

DAYS_BEHIND = 7
"""The last day lies within so many days before today once a history is moved."""


def move_to_today(
    service: EnhancedDatabaseService, reading: PriceReading, today: date, *, keep_dates: bool = False
) -> int:
    """Move all days of a reading, so that the last lies within the week before `today`; return the weeks.

    A history that the database holds already is moved as it was then, which may be by none: at
    other dates the same days would be there twice. With `keep_dates` none are moved; raises
    `InvalidInput` when they were before.
    """
    stored = service.get_moved_weeks()
    known = [stored[symbol] for symbol in reading.table.symbols if symbol in stored]
    if keep_dates:
        if any(known):
            raise InvalidInput(
                f"the history is here already, moved by {max(known)} weeks; leave --keep-dates out,"
                " or delete its ticks first"
            )
        return 0
    last = date.fromordinal(int(reading.table["day"].max()))
    weeks = known[0] if known else max(0, (today - timedelta(days=1) - last).days // DAYS_BEHIND)
    reading.table["day"][:] += 7 * weeks
    return weeks
