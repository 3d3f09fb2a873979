"""Statements that summarise the quests of all players: outcomes, completion times, returns, stuck quests.

A quest has ended if it is completed, expired or past its `expires_at`; any other quest is running. A
completed quest ended at its `completed_at`. Any other ended quest ended in the last moment before its
`expires_at`: a quest that expires on Monday at 00:00 belongs to the week before.
"""

from datetime import UTC, date, datetime, time, timedelta

from core.database import Database
from core.queries.rows import REPORT_MEMORY, Row, fetch_all, list_columns, make_builder
from core.records import (
    CompletionTime,
    CompletionTimes,
    Quest,
    QuestOutcome,
    QuestReturn,
    StuckQuest,
    StuckQuests,
)

# The counters have the day on which quests end, but not the time. So they do not show which of the ACTIVE
# quests that end today have ended already. The statement counts these quests in the table `quests`.
OUTCOMES = """
    SELECT ended_on - (extract(isodow FROM ended_on)::integer - 1) AS week, type, reward_type,
           sum(quests)::bigint, sum(started)::bigint, sum(halfway)::bigint,
           COALESCE(sum(quests) FILTER (WHERE status = 'COMPLETED'), 0)::bigint,
           COALESCE(sum(rewards) FILTER (WHERE status = 'COMPLETED'), 0)
    FROM (
        SELECT ended_on, type, reward_type, status, quests, started, halfway, rewards FROM quest_counters
        WHERE status <> 'ACTIVE' OR ended_on < %(today)s
        UNION ALL
        SELECT %(today)s, type, reward_type, status, 1, (current_progress > 0)::integer,
               (current_progress * 2 >= target_value)::integer, reward_value
        FROM quests WHERE status = 'ACTIVE' AND expires_at > %(midnight)s AND expires_at <= %(now)s
    ) AS ended
    WHERE ended_on BETWEEN %(since)s AND %(until)s OR ended_on IS NULL AND %(since)s = '-infinity'::date
    GROUP BY 1, 2, 3 HAVING sum(quests) <> 0
    ORDER BY 1 NULLS FIRST, type COLLATE "C", reward_type COLLATE "C" """
# Makes the planner read the completed quests in the order in which they are stored. In the order of the index
# by completion time, each quest would be on another page of the table.
STORED_ORDER = "SET LOCAL enable_indexscan = off;"
# COLLATE "C" sorts by bytes: to sort by the rules of a language takes longer than the rest of the statement.
TIMES = """
    SELECT type, title, count(*),
           percentile_cont(0.5) WITHIN GROUP (ORDER BY date_part('epoch', completed_at - created_at))
    FROM (
        SELECT type COLLATE "C" AS type, title COLLATE "C" AS title, completed_at, created_at FROM quests
        WHERE completed_at >= %(since)s AND completed_at < %(until)s
          AND (%(type)s::text IS NULL OR type = %(type)s)
    ) AS completed
    GROUP BY GROUPING SETS ((type, title), ())
    ORDER BY grouping(type) DESC, 4 DESC, 3 DESC, type, title LIMIT %(limit)s + 1"""
# The players are a sample: the last bytes of an id are random, and the first players in the order of these
# bytes are taken. OFFSET 0 forces a look-up of each player's quests. Otherwise the planner expects ten times
# as many quests, and reads the quests of all players. Players are compared within each session: a session
# counts for a type of quest only if a player in it had such a quest.
RETURNS = """
    WITH players AS MATERIALIZED (
        SELECT id FROM users ORDER BY substring(uuid_send(id) FROM 11), id LIMIT %(players)s
    ), attended AS (
        SELECT p.user_id, p.session_date,
            lead(p.session_date) OVER (PARTITION BY p.user_id ORDER BY p.session_date) AS next_date
        FROM players JOIN portfolios p ON p.user_id = players.id
            AND p.session_date BETWEEN %(since)s AND %(until)s::date + %(days)s
    ), played AS MATERIALIZED (
        SELECT user_id, session_date,
            COALESCE(next_date <= session_date + %(days)s, false) AS has_returned
        FROM attended WHERE session_date <= %(until)s
    ), held AS MATERIALIZED (
        SELECT q.user_id, q.type, (q.created_at AT TIME ZONE 'UTC')::date AS first_day,
            (COALESCE(q.expires_at - interval '1 microsecond', q.completed_at, 'infinity')
             AT TIME ZONE 'UTC')::date AS last_day
        FROM players CROSS JOIN LATERAL (SELECT * FROM quests WHERE user_id = players.id OFFSET 0) AS q
        -- leave out quests that ended at an unknown time
        WHERE (q.status = 'ACTIVE' OR q.expires_at IS NOT NULL OR q.completed_at IS NOT NULL)
            AND q.created_at < (%(until)s::date + 1)::timestamp AT TIME ZONE 'UTC'
    ), holding AS (
        SELECT DISTINCT p.user_id, p.session_date, h.type, p.has_returned
        FROM played p JOIN held h ON h.user_id = p.user_id
            AND p.session_date BETWEEN h.first_day AND h.last_day
    ), everyone AS (
        SELECT session_date, count(*) AS sessions, count(*) FILTER (WHERE has_returned) AS returned
        FROM played GROUP BY session_date
    ), holders AS (
        SELECT session_date, type, count(*) AS sessions, count(*) FILTER (WHERE has_returned) AS returned
        FROM holding GROUP BY session_date, type
    )
    SELECT h.type, sum(h.sessions)::bigint, sum(h.returned)::bigint,
           sum(e.sessions - h.sessions)::bigint, sum(e.returned - h.returned)::bigint
    FROM holders h JOIN everyone e USING (session_date)
    GROUP BY h.type ORDER BY h.type COLLATE "C" """
# The counts use rows with few columns; only the returned quests are read with all columns. The players who
# played lately are read once: the planner would look them up for each quest, which takes ten times as long.
STUCK = f"""
    WITH seen AS MATERIALIZED (
        SELECT DISTINCT user_id FROM portfolios WHERE session_date >= %(seen_day)s
    ), slow AS (
        SELECT id, user_id, created_at, current_progress = 0 AS is_untouched,
            current_progress > 0 AND expires_at IS NOT NULL
                AND current_progress * 2 * extract(epoch FROM expires_at - created_at)
                    < target_value * extract(epoch FROM %(now)s - created_at) AS is_behind
        FROM quests
        WHERE status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > %(soon)s)
          AND (%(type)s::text IS NULL OR type = %(type)s)
          AND COALESCE(created_at + (expires_at - created_at) / 2, created_at + %(minimum_age)s) <= %(now)s
    ), stuck AS MATERIALIZED (
        SELECT * FROM (
            SELECT slow.*,
                COALESCE(u.last_active < %(seen_since)s, true) AND seen.user_id IS NULL AS is_unseen
            FROM slow JOIN users u ON u.id = slow.user_id LEFT JOIN seen ON seen.user_id = slow.user_id
        ) AS judged WHERE is_untouched OR is_behind OR is_unseen
    ), counted AS (
        SELECT count(DISTINCT user_id), count(*), count(*) FILTER (WHERE is_untouched),
               count(*) FILTER (WHERE is_behind), count(*) FILTER (WHERE is_unseen)
        FROM stuck
    ), first AS (
        SELECT id AS stuck_id, is_untouched, is_behind, is_unseen
        FROM stuck ORDER BY is_unseen, created_at, id LIMIT %(limit)s
    )
    SELECT counted.*, u.username, u.last_active, is_untouched, is_behind, is_unseen,
           {list_columns(Quest, prefix="q.")}
    FROM counted LEFT JOIN first ON true LEFT JOIN quests q ON q.id = stuck_id
        LEFT JOIN users u ON u.id = q.user_id
    ORDER BY is_unseen, q.created_at, q.id"""

build_outcome = make_builder(QuestOutcome)
build_return = make_builder(QuestReturn)


def _build_stuck(row: Row) -> StuckQuest:
    username, last_active, is_untouched, is_behind, is_unseen, *quest = row
    return StuckQuest(username, last_active, is_untouched, is_behind, is_unseen, Quest(*quest))


def list_outcomes(
    database: Database, since: date | None, until: date | None, now: datetime
) -> tuple[QuestOutcome, ...]:
    """Return the outcomes of the quests that ended from `since` to `until` (included), by week and type.

    None means no bound. Without `since`, quests that ended at an unknown time are included.
    """
    midnight = datetime.combine(now.astimezone(UTC), time(), UTC)
    parameters = {
        "since": since or "-infinity",
        "until": until or "infinity",
        "now": now,
        "midnight": midnight,
        "today": midnight.date(),
    }
    return fetch_all(database, build_outcome, OUTCOMES, parameters)


def measure_times(
    database: Database, since: datetime | None, until: datetime | None, *, only_type: str | None, limit: int
) -> CompletionTimes:
    """Return the number and the median time of the quests completed in [since, until), in total and by title.

    If `since` or `until` is None, there is no bound; if `only_type` is None, quests of all types count. Only
    the `limit` titles with the longest median times are returned.
    """
    parameters = {
        "since": since or "-infinity",
        "until": until or "infinity",
        "type": only_type,
        "limit": limit,
    }
    rows = database.execute_sql(REPORT_MEMORY + STORED_ORDER + TIMES, parameters).fetchall()
    [(_, _, completed, seconds), *titles] = rows
    return CompletionTimes(
        completed,
        None if seconds is None else timedelta(seconds=seconds),
        tuple(
            CompletionTime(quest_type, title, count, timedelta(seconds=median))
            for quest_type, title, count, median in titles
        ),
    )


def compare_returns(
    database: Database, since: date, until: date, *, days: int, players: int
) -> tuple[QuestReturn, ...]:
    """Return how often players with and without a quest of each type played again within `days` days.

    Only a sample of `players` players and their sessions from `since` to `until` (included) are compared.
    """
    parameters = {"since": since, "until": until, "days": days, "players": players}
    return fetch_all(database, build_return, RETURNS, parameters)


def list_stuck(
    database: Database,
    now: datetime,
    *,
    quest_type: str | None,
    limit: int,
    minimum_age: timedelta,
    seen_since: datetime,
    soon: datetime,
) -> StuckQuests:
    """Return the number of stuck quests, and the first `limit` of them.

    Examines running quests that do not expire by `soon`, once half of the time from `created_at` to
    `expires_at` has passed. A quest without `expires_at` is examined once its age is `minimum_age`. An
    examined quest is stuck if it has no or little progress, or if its player was not seen since `seen_since`.
    """
    parameters = {
        "now": now,
        "type": quest_type,
        "limit": limit,
        "minimum_age": minimum_age,
        "seen_since": seen_since,
        "seen_day": seen_since.date(),
        "soon": soon,
    }
    rows = database.execute_sql(REPORT_MEMORY + STUCK, parameters).fetchall()
    players, quests, untouched, behind, unseen = rows[0][:5]
    first = tuple(_build_stuck(row[5:]) for row in rows) if quests else ()
    return StuckQuests(players, quests, untouched, behind, unseen, first)
