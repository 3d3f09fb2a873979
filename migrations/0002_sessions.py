"""Create the tables of the daily sessions: portfolios, quests, leaderboards, market events."""

from typing import Any

UP = (
    """CREATE TABLE portfolios (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        session_date date NOT NULL,
        starting_cash numeric(15, 2) NOT NULL DEFAULT 10000,
        current_cash numeric(15, 2) NOT NULL DEFAULT 10000,
        total_value numeric(15, 2) NOT NULL DEFAULT 10000,
        day_change numeric(15, 2) NOT NULL DEFAULT 0,
        day_change_percent numeric(20, 2) NOT NULL DEFAULT 0,
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        updated_at timestamp with time zone NOT NULL DEFAULT now(),
        CONSTRAINT portfolios_starting_cash_sign CHECK (starting_cash >= 0),
        CONSTRAINT portfolios_current_cash_sign CHECK (current_cash >= 0),
        CONSTRAINT portfolios_total_value_sign CHECK (total_value >= 0)
    )""",
    "CREATE UNIQUE INDEX portfolios_user_session ON portfolios (user_id, session_date)",
    "CREATE INDEX portfolios_session ON portfolios (session_date, total_value DESC)",
    """CREATE TABLE quests (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        type varchar(50) NOT NULL,
        title varchar(200) NOT NULL,
        description text,
        target_value numeric(15, 2) NOT NULL,
        current_progress numeric(15, 2) NOT NULL DEFAULT 0,
        status varchar(20) NOT NULL DEFAULT 'ACTIVE',
        reward_type varchar(50),
        reward_value numeric(15, 2),
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        expires_at timestamp with time zone,
        CONSTRAINT quests_status CHECK (status IN ('ACTIVE', 'COMPLETED', 'EXPIRED')),
        CONSTRAINT quests_target_value_sign CHECK (target_value > 0),
        CONSTRAINT quests_current_progress_sign CHECK (current_progress >= 0)
    )""",
    "CREATE INDEX quests_user_created ON quests (user_id, created_at)",
    "CREATE INDEX quests_active ON quests (user_id, created_at) WHERE status = 'ACTIVE'",
    "CREATE INDEX quests_expiring ON quests (expires_at) WHERE status = 'ACTIVE'",
    """CREATE TABLE leaderboard_entries (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        session_date date NOT NULL,
        category varchar(50) NOT NULL,
        score numeric(15, 2) NOT NULL,
        rank integer,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        CONSTRAINT leaderboard_entries_rank_sign CHECK (rank > 0)
    )""",
    """CREATE UNIQUE INDEX leaderboard_entries_user_board
        ON leaderboard_entries (user_id, session_date, category)""",
    """CREATE INDEX leaderboard_entries_board ON leaderboard_entries
        (session_date, category, score DESC, created_at, id) INCLUDE (user_id)""",
    """CREATE TABLE market_events (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        type varchar(50) NOT NULL,
        title varchar(200) NOT NULL,
        description text,
        affected_symbols text[] NOT NULL DEFAULT '{}',
        impact_magnitude numeric(5, 2),
        sentiment varchar(20) NOT NULL DEFAULT 'NEUTRAL',
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        CONSTRAINT market_events_sentiment CHECK (sentiment IN ('POSITIVE', 'NEGATIVE', 'NEUTRAL'))
    )""",
    "CREATE INDEX market_events_recent ON market_events (created_at DESC, id DESC)",
)
DOWN = ("market_events", "leaderboard_entries", "quests", "portfolios")


def up(_migrator: Any, db: Any) -> None:
    """Create the tables and their indexes."""
    for statement in UP:
        db.execute_sql(statement)


def down(_migrator: Any, db: Any) -> None:
    """Drop the tables in the reverse order of their creation."""
    for table in DOWN:
        db.execute_sql(f"DROP TABLE {table}")
