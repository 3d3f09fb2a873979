"""Statements on the attendance of players: a report on all players, counts for single days, silent players.

A silent player was not seen for some days. The report reads each portfolio of the last 13 weeks once, from an
index. It keeps one row for each player, with integers in which each bit stands for a day. From these bits it
computes whether a player returned and how long a streak is, without sorting the sessions of the player. Of
older sessions it only checks whether there is one.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from core.database import Database
from core.queries.leaderboards import count_above
from core.queries.rows import REPORT_MEMORY, fetch_all, fetch_number, get_first, make_builder
from core.queries.users import build_prefix, match_prefix
from core.records import (
    DAILY_RETURNS,
    Cohort,
    LastSeen,
    PlayerDay,
    PlayerReport,
    PlayerWindow,
    SilentPlayer,
    Streak,
)

MAX_WEEKS = 13
"""Maximum number of weeks for which the report has cohorts (the players who joined in one week)."""
DAYS_REPORTED = 7 * MAX_WEEKS
"""Number of days whose sessions the report reads."""

AWAY_DAYS = 7
"""A player who plays after at least this number of days without a session has returned."""

MAX_STREAK = 30
MATCHES_COUNTED = 10_000

_UTC = "AT TIME ZONE 'UTC'"
_RECENT_DAYS = 62
_EARLIER_FROM = 31
"""Bit 0 of the column `earlier` stands for the session this many days ago.

Bit n of the column `recent` stands for the session n days ago, and bit n of `earlier` for the session n + 31
days ago. Each column contains one window of 30 days and the 7 days before this window. A player who returned
did not play in the 7 days before that session, so they are needed for the first days of the window.
"""


class _Window(NamedTuple):
    """A window of `days` days that ends `end` days ago. `bits` is the column that contains its bits."""

    end: int
    days: int
    bits: str = "recent"

    def select(self) -> str:
        """Return SQL for two counts: the players who played in the window, and those who returned in it."""
        window = ((1 << self.days) - 1) << (self.end if self.bits == "recent" else self.end - _EARLIER_FROM)
        returns = f"(returns_{self.bits} & {window})"
        # A new player's first session is no return. So a new player is counted only if `bits` has another
        # session before the player's latest return in the window.
        return f"""
           count(*) FILTER (WHERE {self.bits} & {window} <> 0),
           count(*) FILTER (WHERE {returns} <> 0
                            AND (NOT is_new OR {self.bits} >= ({returns} & -{returns}) * 2))"""

    def list_days(self, today: date) -> tuple[date, date]:
        """Return the first and the last day of the window."""
        last = today - timedelta(days=self.end)
        return last - timedelta(days=self.days - 1), last


_WINDOWS = (
    _Window(0, 1),
    _Window(1, 7),
    _Window(8, 7),
    _Window(1, 30),
    _Window(31, 30, "earlier"),
)
# Selects the days, among the last DAYS_REPORTED days, on which a session was held. Each step of the recursion
# jumps to the next older session in the index.
HELD = f"""
    WITH RECURSIVE held AS (
        (SELECT max(session_date) AS day FROM portfolios WHERE session_date <= %(today)s)
        UNION ALL
        SELECT (SELECT max(session_date) FROM portfolios WHERE session_date < day)
        FROM held WHERE day > %(today)s - {DAYS_REPORTED}
    ) SELECT day FROM held WHERE day > %(today)s - {DAYS_REPORTED}"""

# With these settings PostgreSQL reads the portfolios in the order of the index by player, and groups them
# without a hash table. A hash table of all players does not fit into the caches of a processor, and takes
# twice as long. The look-ups of older sessions then follow the order of the index too.
PLAN = "SET LOCAL enable_hashagg = off; SET LOCAL enable_sort = off;"


def _find_returns(bits: str) -> str:
    """Return SQL for the bits of the sessions that follow AWAY_DAYS days without a session."""
    return f"{bits} & ~({' | '.join(f'({bits} >> {day})' for day in range(1, AWAY_DAYS + 1))})"


# The bits of sessions that were held and that the player missed. Today's session (bit 0) is left out, because
# it can still be played.
_MISSED = "(%(held)s & ~recent & ~1::bigint)"


def _played_in_week(week: int, weekday: int) -> str:
    """Return the SQL condition that a player played `week` weeks ago, if today is `weekday` (Monday is 0)."""
    ages = range(max(weekday + 7 * week - 6, 0), weekday + 7 * week + 1)
    recent = sum(1 << age for age in ages if age < _RECENT_DAYS)
    earlier = sum(1 << (age - _EARLIER_FROM) for age in ages if age >= _RECENT_DAYS)
    bits = (("recent", recent), ("earlier", earlier))
    return " OR ".join(f"{name} & {mask} <> 0" for name, mask in bits if mask)


def _count_days(column: str) -> str:
    """Return SQL for the number of UTC days from a time to today, negative for a time after today.

    The days are computed from seconds, because a conversion of the time zone would take longer than
    everything else that is computed for a player.
    """
    return f"""(ceil((date_part('epoch', (%(today)s::date + 1)::timestamp) - date_part('epoch', {column}))
                    / 86400) - 1)"""


def _has_older(player: str) -> str:
    """Return the SQL condition that a player has a session before the last DAYS_REPORTED days."""
    return f"""EXISTS (SELECT FROM portfolios p WHERE p.user_id = {player}
                       AND p.session_date <= %(today)s - {DAYS_REPORTED} OFFSET 0)"""


# How many days ago the player's last session was: the position of the lowest bit that is set.
_LAST_PLAYED = f"""CASE WHEN recent <> 0 THEN bit_count(((recent & -recent) - 1)::bit(64))
                    ELSE {_EARLIER_FROM} + bit_count(((earlier & -earlier) - 1)::bit(64)) END"""
_OLDEST_WINDOW = max(window.end + window.days - 1 for window in _WINDOWS)
"""How many days ago the oldest window begins. A player without an earlier session is new."""


def build_report_statement(weeks: int, weekday: int) -> str:
    """Return the statement that counts players by streak, by the day last seen, and by the day of joining.

    Each row has the columns kind, group, weeks and counts. The group is the length of a streak (kind
    `streak`), the number of days since players were seen (`silent`) or since they joined (`joined`). Only
    rows of kind `joined` have weeks: bit n is set if the players played n weeks ago. The first count is the
    number of players. In rows of kind `streak`, two counts for each time range in `_WINDOWS` follow: the
    players who played in it, and the players who played in it after AWAY_DAYS days without a session.
    `weekday` is the weekday of today (Monday is 0).
    """
    windows = ",".join(window.select() for window in _WINDOWS)
    weeks_played = " | ".join(
        f"CASE WHEN {_played_in_week(week, weekday)} THEN {1 << week} ELSE 0 END" for week in range(weeks)
    )
    # Each portfolio sets one bit: in `recent`, or in `older` if the portfolio is at least _RECENT_DAYS days
    # old. `earlier` is then computed from `recent` and `older`.
    return f"""
    WITH played AS MATERIALIZED (
        SELECT user_id, COALESCE(recent, 0) AS recent,
               (COALESCE(recent, 0) >> {_EARLIER_FROM})
                   | (COALESCE(older, 0) << {_RECENT_DAYS - _EARLIER_FROM}) AS earlier
        FROM (
            SELECT user_id,
                   bit_or(1::bigint << (%(today)s - session_date))
                       FILTER (WHERE session_date > %(today)s - {_RECENT_DAYS}) AS recent,
                   bit_or(1::bigint << (%(today)s - {_RECENT_DAYS} - session_date))
                       FILTER (WHERE session_date <= %(today)s - {_RECENT_DAYS}) AS older
            FROM portfolios WHERE session_date > %(today)s - {DAYS_REPORTED} AND session_date <= %(today)s
            GROUP BY user_id
        ) AS bits
    ), attendance AS (
        SELECT least(bit_count((recent & (({_MISSED} & -{_MISSED}) - 1))::bit(64)), {MAX_STREAK})
                   AS streak, recent, earlier,
               {_find_returns("recent")} AS returns_recent, {_find_returns("earlier")} AS returns_earlier,
               earlier >> {_OLDEST_WINDOW + 1 - _EARLIER_FROM} = 0 AND NOT {_has_older("played.user_id")}
                   AS is_new
        FROM played OFFSET 0
    ), everybody AS (
        SELECT CASE WHEN silent IS NOT NULL THEN greatest(silent, 0)
                    WHEN {_has_older("facts.id")} THEN {DAYS_REPORTED} END::integer AS silent,
               CASE WHEN joined BETWEEN 0 AND {DAYS_REPORTED - 1} THEN joined END::integer AS joined,
               CASE WHEN joined BETWEEN 0 AND {DAYS_REPORTED - 1} AND recent IS NOT NULL
                    THEN {weeks_played} END AS weeks
        FROM (
            SELECT id, {_count_days("u.created_at")} AS joined, recent, earlier,
                   CASE WHEN u.last_active IS NOT NULL OR recent IS NOT NULL
                        THEN least({_count_days("u.last_active")}, {_LAST_PLAYED}, {DAYS_REPORTED}) END
                       AS silent
            FROM users u LEFT JOIN played ON user_id = u.id OFFSET 0
        ) AS facts
        WHERE joined >= 0 OR recent IS NOT NULL OR {_has_older("facts.id")}
    )
    SELECT 'streak', streak, NULL, ARRAY[count(*), {windows}] FROM attendance GROUP BY streak
    UNION ALL
    SELECT CASE grouping(silent) WHEN 0 THEN 'silent' ELSE 'joined' END,
           CASE grouping(silent) WHEN 0 THEN silent ELSE joined END, weeks, ARRAY[count(*)]
    FROM everybody GROUP BY GROUPING SETS ((silent), (joined, weeks))"""


# Returns a row of counts for each given day, also for a day without a session. The trades are read in the
# order of the index by session and player, so DISTINCT needs no sort.
DAYS = f"""
    WITH played AS (
        SELECT session_date AS day, count(*) AS players FROM portfolios
        WHERE session_date BETWEEN %(first)s AND %(last)s GROUP BY 1
    ), traded AS (
        SELECT session_date AS day, count(*) AS players FROM (
            SELECT DISTINCT session_date, user_id FROM trades
            WHERE session_date BETWEEN %(first)s AND %(last)s
        ) AS traders GROUP BY 1
    ), joined AS (
        SELECT (created_at {_UTC})::date AS day, count(*) AS players FROM users
        WHERE created_at >= %(first)s::timestamp {_UTC} AND created_at < (%(last)s + 1)::timestamp {_UTC}
        GROUP BY 1
    )
    SELECT day, COALESCE(played.players, 0), COALESCE(traded.players, 0), COALESCE(joined.players, 0)
    FROM unnest(%(days)s::date[]) AS days (day)
    LEFT JOIN played USING (day) LEFT JOIN traded USING (day) LEFT JOIN joined USING (day)"""

# -- silent players -----------------------------------------------------------------------

# OFFSET 0 makes the planner evaluate the subqueries for one player at a time. So the statement reads players
# in the order of an index, and only as many as the page needs.
_IS_SILENT = f"""
    NOT EXISTS (SELECT FROM portfolios p WHERE p.user_id = u.id
                AND p.session_date BETWEEN %(until)s AND %(today)s OFFSET 0)
    AND (u.last_active IS NOT NULL
         OR EXISTS (SELECT FROM portfolios p WHERE p.user_id = u.id AND p.session_date < %(until)s OFFSET 0))
    AND (%(joined)s::date IS NULL OR u.created_at >= %(joined)s::timestamp {_UTC}
                                 AND u.created_at < (%(joined)s::date + 7)::timestamp {_UTC})
    AND (%(sessions)s = 0 OR %(sessions)s = (
            SELECT count(*) FROM (SELECT FROM portfolios p WHERE p.user_id = u.id
                                  AND p.session_date < %(until)s LIMIT %(sessions)s) AS played))
    {{prefix}}"""
_KNOWN = f"u.last_active < %(until)s::timestamp {_UTC}"
_UNKNOWN = "u.last_active IS NULL"
_PREFIX = f"AND {match_prefix('u.username')}"
_COLUMNS = "u.id, u.username, u.created_at, u.last_active"
_KNOWN_LAST = "%(last_active)s::timestamptz IS NOT NULL"
# The order of the index `users_last_active`, in both directions.
_NEWEST_FIRST = "u.last_active DESC NULLS LAST, u.id"
_OLDEST_FIRST = "u.last_active ASC NULLS FIRST, u.id DESC"
# For each order of the list: the ranges of an index that are read one after the other. A range is three
# pieces of SQL: the condition for players after the last player of the previous page, the condition on
# `last_active`, and ORDER BY.
_RANGES = {
    "last_active": (
        (
            (
                f"(NOT %(is_after)s OR {_KNOWN_LAST} AND u.last_active <= %(last_active)s::timestamptz"
                " AND (u.last_active < %(last_active)s::timestamptz OR u.id > %(id)s::uuid))"
            ),
            _KNOWN,
            _NEWEST_FIRST,
        ),
        (f"(NOT %(is_after)s OR {_KNOWN_LAST} OR u.id > %(id)s::uuid)", _UNKNOWN, _NEWEST_FIRST),
    ),
    "-last_active": (
        (
            f"(NOT %(is_after)s OR NOT {_KNOWN_LAST} AND u.id < %(id)s::uuid)",
            _UNKNOWN,
            _OLDEST_FIRST,
        ),
        (
            (
                f"(NOT %(is_after)s OR NOT {_KNOWN_LAST} OR u.last_active >= %(last_active)s::timestamptz"
                " AND (u.last_active > %(last_active)s::timestamptz OR u.id < %(id)s::uuid))"
            ),
            _KNOWN,
            _OLDEST_FIRST,
        ),
    ),
    "username": (
        (
            (
                "(NOT %(is_after)s OR lower(u.username) ~>=~ lower(%(username)s)"
                " AND (lower(u.username) ~>~ lower(%(username)s) OR u.id > %(id)s::uuid))"
            ),
            f"({_KNOWN} OR {_UNKNOWN})",
            "lower(u.username) USING ~<~, u.id",
        ),
    ),
}
ORDERS = tuple(_RANGES)


def _build_page(order: str, prefix: str) -> str:
    ranges = "\n        UNION ALL\n".join(
        f"""        (SELECT {place} AS part, row_number() OVER (ORDER BY {sort}) AS place, u.* FROM (
            SELECT {_COLUMNS} FROM users u
            WHERE {kind} AND {after} AND {_IS_SILENT.format(prefix=prefix)}
            ORDER BY {sort} LIMIT %(limit)s) AS u)"""
        for place, (after, kind, sort) in enumerate(_RANGES[order])
    )
    return f"""
    WITH page AS MATERIALIZED (
        SELECT * FROM (
{ranges}
        ) AS found ORDER BY part, place LIMIT %(limit)s
    ), facts AS MATERIALIZED (
        SELECT page.*, s.session_date, s.day_change_percent,
               (SELECT count(*) FROM portfolios p
                WHERE p.user_id = page.id AND p.session_date <= %(today)s) AS sessions
        FROM page LEFT JOIN LATERAL (
            SELECT session_date, day_change_percent FROM portfolios p
            WHERE p.user_id = page.id AND p.session_date <= %(today)s ORDER BY session_date DESC LIMIT 1
        ) AS s ON true
    ), sizes AS MATERIALIZED (
        SELECT session_date, (
            SELECT sum(entries)::bigint FROM leaderboard_counters c
            WHERE c.session_date = days.session_date AND c.category = %(category)s) AS entries
        FROM (SELECT DISTINCT session_date FROM facts WHERE session_date IS NOT NULL) AS days
    )
    SELECT s.id, s.username, s.created_at, s.last_active, s.session_date,
           %(today)s - greatest((s.last_active {_UTC})::date, s.session_date), s.sessions,
           e.rank, CASE WHEN e.rank IS NOT NULL THEN sizes.entries END, s.day_change_percent,
           q.title, q.status
    FROM facts s LEFT JOIN sizes ON sizes.session_date = s.session_date
    LEFT JOIN LATERAL (
        SELECT COALESCE(rank, 1 + {count_above("e.score", day="e.session_date")}) AS rank
        FROM leaderboard_entries e
        WHERE e.user_id = s.id AND e.session_date = s.session_date AND e.category = %(category)s
    ) AS e ON true
    LEFT JOIN LATERAL (
        SELECT title, CASE WHEN status = 'ACTIVE' AND expires_at <= %(now)s THEN 'EXPIRED' ELSE status END
                      AS status
        FROM quests q WHERE q.user_id = s.id ORDER BY created_at DESC, id DESC LIMIT 1
    ) AS q ON true
    ORDER BY part, place"""


SILENT = {order: _build_page(order, "") for order in ORDERS}
SILENT_MATCHES = {order: _build_page(order, _PREFIX) for order in ORDERS}
_COUNT = f"""
    SELECT count(*) FROM (
        SELECT 1 FROM users u WHERE ({_KNOWN} OR {_UNKNOWN}) AND {_IS_SILENT} LIMIT {MATCHES_COUNTED}
    ) AS found"""
COUNT = _COUNT.format(prefix="")
COUNT_MATCHES = _COUNT.format(prefix=_PREFIX)

build_day = make_builder(PlayerDay)
build_silent = make_builder(SilentPlayer)


class SilentFilters(NamedTuple):
    """The silent players to list: not seen for `days` days, with at least `sessions` sessions before that.

    `joined` is the Monday of the week in which the players joined (None: any week). Their usernames begin
    with `prefix`.
    """

    days: int
    sessions: int
    joined: date | None
    prefix: str


def list_days(database: Database, days: Sequence[date]) -> tuple[PlayerDay, ...]:
    """Return the counts of players for each day in `days`, in any order."""
    parameters = {"days": list(days), "first": min(days), "last": max(days)}
    return fetch_all(database, build_day, REPORT_MEMORY + DAYS, parameters)


def build_report(database: Database, today: date, weeks: int) -> PlayerReport:
    """Return the report on all players, with the cohorts of the last `weeks` weeks."""
    monday = today - timedelta(days=today.weekday())
    held = fetch_all(database, get_first, HELD, {"today": today})
    held_bits = sum(1 << (today - day).days for day in held if (today - day).days < _RECENT_DAYS)
    statement = REPORT_MEMORY + PLAN + build_report_statement(weeks, today.weekday())
    rows = fetch_all(database, tuple, statement, {"today": today, "held": held_bits})
    streaks: Counter[int] = Counter()
    silent: Counter[int | None] = Counter()
    joined: Counter[int] = Counter()
    sums: dict[int, list[int]] = {}
    totals = [0] * (2 * len(_WINDOWS))
    for kind, group, weeks_played, (players, *counts) in rows:
        if kind == "streak":
            streaks[group] += players
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
        elif kind == "silent":
            silent[group] += players
        elif group is not None:
            joined[group] += players
            # The key is the number of weeks since the week of joining; 0 is the current week.
            sizes = sums.setdefault((group + 6 - today.weekday()) // 7, [0] * (weeks + 1))
            sizes[0] += players
            for week in range(weeks):
                sizes[1 + week] += players * ((weeks_played or 0) >> week & 1)
    weeks_held = {(monday + timedelta(days=6) - day).days // 7 for day in held}
    return PlayerReport(
        today=today,
        players=silent.total(),
        last_seen=tuple(
            LastSeen(today - timedelta(days=days), silent[days])
            for days in range(DAYS_REPORTED)
            if silent[days]
        ),
        seen_earlier=sum(silent[days] for days in silent if days is not None and days >= DAYS_REPORTED),
        never_seen=silent[None],
        windows=tuple(
            PlayerWindow(
                *window.list_days(today),
                played=totals[2 * n],
                joined=sum(joined[window.end + day] for day in range(window.days)),
                returned=totals[2 * n + 1],
            )
            for n, window in enumerate(_WINDOWS)
        ),
        streaks=tuple(Streak(n, streaks[n]) for n in range(1, MAX_STREAK + 1) if streaks[n]),
        cohorts=tuple(
            Cohort(
                monday - timedelta(weeks=cohort),
                sums[cohort][0],
                tuple(
                    sums[cohort][1 + week] if week in weeks_held else None for week in range(cohort, -1, -1)
                ),
            )
            for cohort in sorted(sums, reverse=True)
            if cohort < weeks
        ),
    )


def list_silent(
    database: Database,
    filters: SilentFilters,
    now: datetime,
    *,
    order: str,
    last: SilentPlayer | None,
    limit: int,
) -> tuple[SilentPlayer, ...]:
    """Return up to `limit` silent players after `last` (None: from the start).

    `order` is one of ORDERS.
    """
    wanted = build_prefix(filters.prefix)
    statement = wanted.refine(SILENT_MATCHES[order]) if filters.prefix else SILENT[order]
    parameters = {
        **_build_parameters(filters, now),
        "now": now,
        "category": DAILY_RETURNS,
        "limit": limit,
        "is_after": last is not None,
        "last_active": last and last.last_active,
        "username": last and last.username,
        "id": last and last.user_id,
    }
    return fetch_all(database, build_silent, statement, parameters)


def count_silent(database: Database, filters: SilentFilters, now: datetime) -> int:
    """Return the number of silent players. The count stops at MATCHES_COUNTED."""
    wanted = build_prefix(filters.prefix)
    statement = wanted.refine(COUNT_MATCHES) if filters.prefix else COUNT
    return fetch_number(database, statement, _build_parameters(filters, now))


def _build_parameters(filters: SilentFilters, now: datetime) -> dict[str, Any]:
    today = now.date()
    return {
        "today": today,
        "until": today - timedelta(days=filters.days - 1),
        "sessions": filters.sessions,
        "joined": filters.joined,
        **build_prefix(filters.prefix)._asdict(),
    }
