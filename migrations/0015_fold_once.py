"""Fold the counters of a leaderboard at most once in a transaction.

A fold replaces the counters of each bucket by one row with their sum (`leaderboard_fold`). Before this
migration, the insertion of such a row often triggered another fold. On a leaderboard with a thousand writes
per second, every fold found enough new counters of other writers to insert such rows again. So one write in
several thousand took seconds, because it repeated the fold many times.
"""

from typing import Any

_FOLD_LATER = """
    CREATE OR REPLACE FUNCTION leaderboard_fold_later() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
    {body}$$"""
ONCE = """DECLARE
        folded text := COALESCE(current_setting('echo_markets.folded', true), '');
        -- a category can have every character except a line break
        leaderboard text := NEW.session_date || ' ' || NEW.category || E'\\n';
    BEGIN
        IF position(leaderboard IN folded) = 0 THEN
            -- the setting is reset at the end of the transaction
            PERFORM set_config('echo_markets.folded', folded || leaderboard, true);
            PERFORM leaderboard_fold(
                NEW.session_date, NEW.category, leaderboard_bucket_size(NEW.session_date, NEW.category)
            );
        END IF;
        RETURN NULL;
    END """
EACH_TIME = """BEGIN
        PERFORM leaderboard_fold(NEW.session_date, NEW.category{size});
        RETURN NULL;
    END """


def up(_migrator: Any, db: Any) -> None:
    """Let the trigger fold the counters of a leaderboard only once in a transaction."""
    db.execute_sql(_FOLD_LATER.format(body=ONCE).replace("%", "%%"))


def down(_migrator: Any, db: Any) -> None:
    """Let the trigger fold the counters of a leaderboard at each row that fires it, as before."""
    each_time = EACH_TIME.format(size=", leaderboard_bucket_size(NEW.session_date, NEW.category)")
    db.execute_sql(_FOLD_LATER.format(body=each_time).replace("%", "%%"))
