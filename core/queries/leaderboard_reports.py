"""Statements on `leaderboard_entries` for reports, such as distributions, lists and histories.

Most statements read few entries of a leaderboard. As in `core.queries.leaderboards`, they compute a rank from
`leaderboard_counters` and the entries of one bucket. LIST and LIST_MATCHES also read the entries before their
offset, COUNT_MATCHES reads the entries that it counts, and PERIOD reads every entry of its sessions.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from core.database import Database
from core.queries.leaderboards import (
    LEADERBOARD,
    RANK_ON_PAGE,
    build_entry,
    build_parameters,
    count_above,
    select_entry,
)
from core.queries.rows import REPORT_MEMORY, fetch_all, fetch_number, find_one, get_first, make_builder
from core.queries.users import build_prefix, match_prefix
from core.records import LeaderboardEntry, PeriodEntry, PlayerScore, ScoreBin

# COUNT_MATCHES stops at this number, because a prefix of one letter matches a tenth of all players.
MATCHES_COUNTED = 1_000

COUNT = f"SELECT COALESCE(sum(entries), 0)::bigint FROM leaderboard_counters WHERE {LEADERBOARD}"
COUNT_MATCHES = f"""
    SELECT count(*) FROM (
        SELECT FROM leaderboard_entries e JOIN usernames u ON u.id = e.user_id
        WHERE e.session_date = %(day)s AND e.category = %(category)s AND {match_prefix("u.username")}
        LIMIT {MATCHES_COUNTED}
    ) AS matches"""
WORST = f"SELECT score FROM leaderboard_entries WHERE {LEADERBOARD} ORDER BY score LIMIT 1"
LEADERS = f"SELECT {count_above('%(score)s', condition='>=')}"
BINS = f"""
    SELECT edge, {count_above("edge", condition=">=")}
    FROM unnest(%(edges)s::numeric[]) AS edges (edge) ORDER BY edge"""
ORDERS = {
    "rank": "e.score DESC, e.created_at, e.id",
    "-rank": "e.score, e.created_at DESC, e.id DESC",
    # `~<~` and `~>~` compare as the index on lower(username) does, which uses text_pattern_ops
    "username": "lower(u.username) USING ~<~, u.id",
    "-username": "lower(u.username) USING ~>~, u.id DESC",
}
REVERSED = {"username": "-username", "-username": "username"}
# The rank of each row is counted separately, because the rows can be far apart on the leaderboard.
_LIST = f"""
    WITH page AS MATERIALIZED (
        SELECT e.*, u.username, row_number() OVER () AS place FROM (
            SELECT e.id FROM leaderboard_entries e JOIN usernames u ON u.id = e.user_id
            WHERE e.session_date = %(day)s AND e.category = %(category)s {{condition}}
            ORDER BY {{order}} LIMIT %(limit)s OFFSET %(offset)s
        ) AS found JOIN leaderboard_entries e ON e.id = found.id JOIN usernames u ON u.id = e.user_id
        ORDER BY {{order}}
    )
    SELECT {select_entry(f"1 + {count_above('e.score')}", username="e.username")}
    FROM page e ORDER BY e.place"""
LIST = {order: _LIST.format(condition="", order=by) for order, by in ORDERS.items()}
LIST_MATCHES = {
    order: _LIST.format(condition=f"AND {match_prefix('u.username')}", order=by)
    for order, by in ORDERS.items()
}
# Selects the newest session before a day in which the category has an entry. It reads the counters, because
# there are a thousand times fewer counters than entries. Then it checks that there is an entry, because a
# leaderboard without entries can still have counters.
_NEWEST_DATE = """
    SELECT session_date AS day FROM leaderboard_counters c
    WHERE session_date < {before} AND category = %(category)s AND entries > 0
      AND (SELECT true FROM leaderboard_entries e
           WHERE e.session_date = c.session_date AND e.category = c.category
           ORDER BY e.score DESC LIMIT 1)
    ORDER BY session_date DESC LIMIT 1"""
DATES = f"""
    WITH RECURSIVE days AS (
        SELECT day, 1 AS place FROM ({_NEWEST_DATE.format(before="%(before)s")}) AS newest
        UNION ALL
        SELECT older.day, place + 1
        FROM days CROSS JOIN LATERAL ({_NEWEST_DATE.format(before="days.day")}) AS older
        WHERE place < %(limit)s
    ) SELECT day FROM days ORDER BY day DESC"""
_SCORES = """
    SELECT e.user_id, e.session_date, e.score, {rank}
    FROM unnest(%(user_ids)s::uuid[]) AS players (id) CROSS JOIN unnest(%(days)s::date[]) AS days (day)
    JOIN leaderboard_entries e
      ON e.user_id = players.id AND e.session_date = days.day AND e.category = %(category)s
    ORDER BY e.user_id, e.session_date"""
SCORES = _SCORES.format(rank="NULL")
# Ranks are stored when a session is closed. In an open session `rank` is NULL, so the rank is counted.
RANKS = _SCORES.format(rank=f"COALESCE(e.rank, 1 + {count_above('e.score', day='e.session_date')})")
# Players are ranked by the sum of (score - base); the caller chooses `base`, which is subtracted from every
# score. The returned score is the mean of these differences over all sessions; for a session without a score
# the difference is 0.
PERIOD = """
    WITH totals AS MATERIALIZED (
        SELECT user_id, sum(score - %(base)s) AS total, count(*) AS sessions FROM leaderboard_entries
        WHERE session_date = ANY(%(days)s::date[]) AND category = %(category)s GROUP BY user_id
    ), best AS MATERIALIZED (
        SELECT * FROM totals ORDER BY total DESC, user_id LIMIT %(limit)s
    )
    SELECT user_id, (SELECT username FROM usernames WHERE id = user_id),
           round(total / cardinality(%(days)s::date[]), 2), sessions, rank() OVER (ORDER BY total DESC),
           (SELECT count(*) FROM totals)
    FROM best ORDER BY total DESC, user_id"""
# Selects the entries that follow the last entry of the previous page. Reads two ranges of the index: later
# entries with the same score as that entry, and entries with lower scores. Usernames come from a subquery,
# because for a join the planner would read all users.
AFTER = f"""
    SELECT {select_entry("0 AS rank", username="(SELECT username FROM usernames WHERE id = e.user_id)")}
    FROM (
        (SELECT * FROM leaderboard_entries
         WHERE {LEADERBOARD} AND score = %(score)s AND (created_at, id) > (%(created_at)s, %(id)s)
         ORDER BY created_at, id LIMIT %(limit)s)
        UNION ALL
        (SELECT * FROM leaderboard_entries WHERE {LEADERBOARD} AND score < %(score)s
         ORDER BY score DESC, created_at, id LIMIT %(limit)s)
    ) AS e ORDER BY e.score DESC, e.created_at, e.id LIMIT %(limit)s"""
# The same entries as AFTER, with their ranks.
PAGE_AFTER = f"""
    WITH page AS MATERIALIZED ({AFTER}), first AS MATERIALIZED (
        SELECT score, {count_above("s.score")} AS higher,
               {count_above("s.score", condition=">=")} AS as_high
        FROM (SELECT max(score) AS score FROM page) AS s
    )
    SELECT {select_entry(RANK_ON_PAGE, username="e.username")}
    FROM page e CROSS JOIN first ORDER BY e.score DESC, e.created_at, e.id"""

build_score = make_builder(PlayerScore)


class Selection(NamedTuple):
    """Which entries of a leaderboard to return: skip `offset` entries, then return up to `limit` entries.

    `order` is a key of ORDERS. Entries of players whose username does not begin with `prefix` are ignored; an
    empty prefix selects all players.
    """

    order: str
    prefix: str
    limit: int
    offset: int


def count_entries(database: Database, category: str, session_date: date) -> int:
    """Return the number of entries of a leaderboard."""
    return fetch_number(database, COUNT, build_parameters(category, session_date))


def count_matches(database: Database, category: str, session_date: date, prefix: str) -> int:
    """Return the number of players on a leaderboard whose username begins with `prefix`.

    The count stops at MATCHES_COUNTED.
    """
    wanted = build_prefix(prefix)
    parameters = build_parameters(category, session_date, **wanted._asdict())
    return fetch_number(database, wanted.refine(COUNT_MATCHES), parameters)


def find_worst(database: Database, category: str, session_date: date) -> Decimal | None:
    """Return the lowest score of a leaderboard, or None if it has no entries."""
    parameters = build_parameters(category, session_date)
    return find_one(database, lambda row: Decimal(row[0]), WORST, parameters)


def count_from(database: Database, category: str, session_date: date, score: Decimal) -> int:
    """Return the number of entries of a leaderboard whose score is `score` or higher."""
    return fetch_number(database, LEADERS, build_parameters(category, session_date, score=score))


def count_bins(
    database: Database, category: str, session_date: date, edges: Sequence[Decimal]
) -> tuple[ScoreBin, ...]:
    """Return the number of scores in each range [low, high) between two neighbouring `edges`."""
    parameters = build_parameters(category, session_date, edges=list(edges))
    counts = fetch_all(database, tuple, BINS, parameters)
    return tuple(ScoreBin(low, high, as_high - higher) for (low, as_high), (high, higher) in pairwise(counts))


def list_ordered(
    database: Database, category: str, session_date: date, selection: Selection
) -> tuple[LeaderboardEntry, ...]:
    """Return the selected entries of a leaderboard with their ranks."""
    wanted = build_prefix(selection.prefix)
    statement = wanted.refine(LIST_MATCHES[selection.order]) if selection.prefix else LIST[selection.order]
    parameters = build_parameters(
        category, session_date, limit=selection.limit, offset=selection.offset, **wanted._asdict()
    )
    return fetch_all(database, build_entry, statement, parameters)


def list_dates(database: Database, category: str, limit: int, before: date) -> tuple[date, ...]:
    """Return the dates of up to `limit` sessions that have entries in a category, newest first.

    Only sessions before the day `before` are returned.
    """
    parameters = {"category": category, "limit": limit, "before": before}
    return fetch_all(database, get_first, DATES, parameters)


def list_scores(
    database: Database, user_ids: Sequence[UUID], category: str, days: Sequence[date], *, ranked: bool
) -> tuple[PlayerScore, ...]:
    """Return the scores of players in the sessions `days`, ordered by user id and session.

    The scores have ranks only if `ranked` is true.
    """
    parameters = {"user_ids": list(user_ids), "category": category, "days": list(days)}
    return fetch_all(database, build_score, RANKS if ranked else SCORES, parameters)


def list_period(
    database: Database, category: str, days: Sequence[date], *, base: Decimal, limit: int
) -> tuple[int, tuple[PeriodEntry, ...]]:
    """Return the number of players with a score in any of the sessions `days`, and the best `limit` players.

    `base` is subtracted from each score (see `PeriodEntry`).
    """
    parameters = {"category": category, "days": list(days), "base": base, "limit": limit}
    rows = fetch_all(database, tuple, REPORT_MEMORY + PERIOD, parameters)
    return (rows[0][5] if rows else 0), tuple(PeriodEntry(*row[:5]) for row in rows)


def list_after(
    database: Database,
    category: str,
    session_date: date,
    last: LeaderboardEntry | None,
    limit: int,
    *,
    ranked: bool,
) -> tuple[LeaderboardEntry, ...]:
    """Return up to `limit` entries of a leaderboard after `last` (None: from the start).

    If `ranked` is false, ranks are not counted, and each entry has the rank 0.
    """
    place: dict[str, Any] = {"score": Decimal("Infinity"), "created_at": None, "id": None}
    if last is not None:
        place = {"score": last.score, "created_at": last.created_at, "id": last.id}
    parameters = build_parameters(category, session_date, limit=limit, **place)
    return fetch_all(database, build_entry, PAGE_AFTER if ranked else AFTER, parameters)
