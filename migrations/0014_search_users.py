"""Search players by the prefix of a name in a function, whose statements are planned once per connection.

The search reads a range of names. The range begins at the prefix and ends before the first text that follows
all names with the prefix. For example, the range of `anna` ends before `annb`: the last character is replaced
by the next character. If the last character of the prefix has no next character, it is removed first. The
order is by code points, as in the indexes.
"""

from typing import Any

_COLUMNS = "id, username, name, email, last_active, preferences, created_at, updated_at"


def _branch(column: str) -> str:
    return f"""
            (SELECT {_COLUMNS} FROM users WHERE lower({column}) ~>=~ low AND lower({column}) ~<~ high
             ORDER BY lower({column}) USING ~<~, id LIMIT size)"""


SEARCH = f"""
    CREATE FUNCTION users_search(prefix text, size bigint) RETURNS TABLE (
        id uuid, username text, name text, email text, last_active timestamp with time zone,
        preferences jsonb, created_at timestamp with time zone, updated_at timestamp with time zone
    ) LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    #variable_conflict use_column
    DECLARE
        low text := lower(prefix);
        high text := rtrim(low, chr(1114111));
        last integer := ascii(right(high, 1));
    BEGIN
        -- no character has a code point between 55295 and 57344
        high := left(high, -1) || chr(CASE last WHEN 55295 THEN 57344 ELSE last + 1 END);
        RETURN QUERY SELECT {_COLUMNS} FROM ({_branch("username")}
            UNION {_branch("name")}
        ) AS found ORDER BY lower(username) USING ~<~, id LIMIT size;
    END $$"""


def up(_migrator: Any, db: Any) -> None:
    """Create the function."""
    db.execute_sql(SEARCH.replace("%", "%%"))


def down(_migrator: Any, db: Any) -> None:
    """Drop the function."""
    db.execute_sql("DROP FUNCTION users_search")
