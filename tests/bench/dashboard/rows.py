"""The rows that the dashboard shows in a benchmark.

For five sessions, every player has a portfolio and an entry on the leaderboard of daily returns. For the last
two sessions, every player also has an entry on the two other leaderboards that the dashboard lists.
"""

from datetime import UTC, datetime

import psycopg2

NEWEST = datetime.now(UTC).date()
SESSIONS = 5

FILL = """
INSERT INTO users (id, username, name, last_active)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'player' || n, 'Player ' || n,
       %(newest)s::date + n * interval '1 millisecond'
FROM generate_series(1, %(players)s) AS n;
INSERT INTO portfolios (user_id, session_date, current_cash, total_value, day_change, day_change_percent)
SELECT id, day, 2500, 10000 + change, change, change / 100
FROM users, generate_series(%(newest)s::date - %(sessions)s + 1, %(newest)s::date, interval '1 day') AS day,
     LATERAL (SELECT (hashtext(username || day) %% 50000) / 100.0 AS change) AS moved;
INSERT INTO leaderboard_entries (user_id, session_date, category, score)
SELECT user_id, session_date, category,
       CASE category WHEN 'daily_returns' THEN day_change_percent WHEN 'total_value' THEN total_value
                     ELSE abs(hashtext(user_id::text)) %% 20 END
FROM portfolios, unnest(ARRAY['daily_returns', 'total_value', 'quests_completed']) AS category
WHERE session_date > %(newest)s::date - 2 OR category = 'daily_returns';
"""


def fill_tables(url: str, *, players: int) -> None:
    """Write the players, their portfolios and leaderboards, then run ANALYZE for the planner."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(FILL, {"players": players, "newest": NEWEST, "sessions": SESSIONS})
            cursor.execute("VACUUM ANALYZE")
            cursor.execute("CHECKPOINT")
    finally:
        connection.close()
