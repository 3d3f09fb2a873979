"""The tables, their constraints and their indexes as peewee models.

A test compares the models with the schema that the migrations create. The models contain no queries and are
bound to no database. `core.queries` builds statements with them, and runs the statements on the connection of
the unit of work.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, get_args

from peewee import (
    SQL,
    BigIntegerField,
    BlobField,
    CharField,
    Check,
    CompositeKey,
    DateField,
    DecimalField,
    Field,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
    UUIDField,
)
from playhouse.postgres_ext import ArrayField, BinaryJSONField, DateTimeTZField

from core.records import (
    QUEST_STATUSES,
    SENTIMENTS,
    STARTING_CASH,
    TRADE_SIDES,
    AuditAction,
    AuditChange,
    AuditOutcome,
)

SYMBOL_PATTERN = "^[$^.@#/]?[A-Z0-9][A-Z0-9.^=/:&_@#$!+-]{0,31}$"
CATEGORY_PATTERN = "^[A-Za-z0-9_.-]{1,50}$"
CURRENCY_PATTERN = "^[A-Z]{3,5}$"


# `email` and `email_index` are both NULL, or both have their stored form and contain the id of the same key.
# An address that is not encrypted violates the condition.
EMAIL_CONDITION = (
    "(email IS NULL) = (email_index IS NULL)"
    " AND email ~ '^v1[.][A-Za-z0-9_-]+[.][A-Za-z0-9_-]+$'"
    " AND email_index ~ '^[A-Za-z0-9_-]+[.][A-Za-z0-9_-]+$'"
    " AND split_part(email, '.', 2) = split_part(email_index, '.', 1)"
)
# Matches a symbol in the text form of an array. PostgreSQL puts quotes around some symbols: around NULL, and
# around symbols with special characters.
_QUOTED_SYMBOL = f'"?{SYMBOL_PATTERN[1:-1]}"?'
_DESCRIPTION = "char_length(description) BETWEEN 1 AND 10000"


class NumericField(Field):
    """A `numeric` column without a fixed scale: a price keeps all digits with which it was quoted."""

    field_type = "NUMERIC"


def _one_of(column: str, values: Iterable[str]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def _id() -> UUIDField:
    return UUIDField(primary_key=True, constraints=[SQL("DEFAULT gen_random_uuid()")])


def _now() -> DateTimeTZField:
    return DateTimeTZField(constraints=[SQL("DEFAULT now()")])


def _user(backref: str) -> ForeignKeyField:
    return ForeignKeyField(User, backref=backref, on_delete="CASCADE", index=False)


def _portfolio(table: str) -> SQL:
    return SQL(
        f"CONSTRAINT {table}_portfolio FOREIGN KEY (user_id, session_date)"
        " REFERENCES portfolios (user_id, session_date) ON DELETE CASCADE"
    )


class User(Model):
    """A player.

    `email` is encrypted. `email_index` is its blind index, to search for an address; see `core.encryption`.
    """

    id = _id()
    username = TextField()
    name = TextField(null=True)
    email = TextField(null=True)
    email_index = TextField(null=True)
    last_active = DateTimeTZField(null=True)
    preferences = BinaryJSONField(index=False, constraints=[SQL("DEFAULT '{}'")])
    created_at = _now()
    updated_at = _now()

    class Meta:
        """The indexes on lower() are for a search by prefix that ignores case."""

        table_name = "users"
        constraints: ClassVar[list[Any]] = [
            Check("char_length(username) BETWEEN 1 AND 50", name="users_username_length"),
            Check(EMAIL_CONDITION, name="users_email_encrypted"),
            Check(r"username !~ '[\u0001-\u001F\u007F-\u009F\u2028\u2029]'", name="users_username_printable"),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL("CREATE UNIQUE INDEX users_username ON users (username)"),
            SQL("CREATE INDEX users_username_prefix ON users (lower(username) text_pattern_ops)"),
            SQL("CREATE INDEX users_name_prefix ON users (lower(name) text_pattern_ops)"),
            SQL("CREATE INDEX users_last_active ON users (last_active DESC NULLS LAST, id)"),
            SQL("CREATE INDEX users_email_index ON users (email_index)"),
        ]


class Tick(Model):
    """The price of a symbol at a time. Rows are mostly appended; the table is partitioned by month.

    The migrations and `maintain_partitions` create the partitions.
    """

    symbol = TextField()
    timestamp = DateTimeTZField()
    price = NumericField()
    volume = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    bid = NumericField(null=True)
    ask = NumericField(null=True)
    change_24h = NumericField(null=True)
    change_percent_24h = NumericField(null=True)
    volatility = NumericField(null=True)
    open = NumericField(null=True)
    high = NumericField(null=True)
    low = NumericField(null=True)

    class Meta:
        """The unique index finds the latest price of a symbol; the BRIN index finds ticks by time."""

        table_name = "ticks"
        primary_key = False
        table_settings = "PARTITION BY RANGE (timestamp)"
        constraints: ClassVar[list[Any]] = [
            Check(f"symbol ~ '{SYMBOL_PATTERN}'", name="ticks_symbol_format"),
            Check("price > 0 AND price < 'Infinity'", name="ticks_price_positive"),
            Check("volume >= 0", name="ticks_volume_sign"),
            Check("bid > 0 AND ask >= bid", name="ticks_spread"),
            Check("low <= LEAST(open, price) AND high >= GREATEST(open, price)", name="ticks_bar"),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL("CREATE UNIQUE INDEX ticks_symbol_timestamp ON ticks (symbol, timestamp)"),
            SQL("CREATE INDEX ticks_timestamp ON ticks USING brin (timestamp)"),
        ]


class Symbol(Model):
    """A symbol that has, or had, ticks.

    `month` is the first day (UTC) of a month; the symbol has no tick after this month. So the latest price is
    searched in a single partition first. Triggers keep `month` up to date. `moved_weeks` is the number of
    weeks by which the dates of an imported history were moved: each tick is later than its real date.
    """

    symbol = TextField(primary_key=True)
    month = DateTimeTZField()
    currency = TextField(null=True)
    moved_weeks = IntegerField(constraints=[SQL("DEFAULT 0")])

    class Meta:
        """Rows are found only by the primary key; the table needs no other index."""

        table_name = "symbols"
        constraints: ClassVar[list[Any]] = [
            Check(f"currency ~ '{CURRENCY_PATTERN}'", name="symbols_currency"),
        ]


class Portfolio(Model):
    """The cash and the total value of a player in one session."""

    id = _id()
    user = _user("portfolios")
    session_date = DateField()
    starting_cash = DecimalField(15, 2, constraints=[SQL(f"DEFAULT {STARTING_CASH}")])
    current_cash = DecimalField(15, 2, constraints=[SQL(f"DEFAULT {STARTING_CASH}")])
    total_value = DecimalField(15, 2, constraints=[SQL(f"DEFAULT {STARTING_CASH}")])
    day_change = DecimalField(15, 2, constraints=[SQL("DEFAULT 0")])
    day_change_percent = DecimalField(20, 2, constraints=[SQL("DEFAULT 0")])
    created_at = _now()
    updated_at = _now()

    class Meta:
        """The unique index finds the portfolios of a player, the other index those of a session."""

        table_name = "portfolios"
        constraints: ClassVar[list[Any]] = [
            Check("starting_cash >= 0", name="portfolios_starting_cash_sign"),
            Check("current_cash >= 0", name="portfolios_current_cash_sign"),
            Check("total_value >= 0", name="portfolios_total_value_sign"),
            Check(
                "'NaN' NOT IN (starting_cash, current_cash, total_value, day_change, day_change_percent)",
                name="portfolios_numbers",
            ),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL("CREATE UNIQUE INDEX portfolios_user_session ON portfolios (user_id, session_date)"),
            SQL("CREATE INDEX portfolios_session ON portfolios (session_date, user_id)"),
        ]


class Position(Model):
    """The shares of one symbol that a player holds in a session. `average_price` is the cost of one share.

    The quantity is positive: short selling is not possible, and a closed position has no row.
    """

    user_id = UUIDField()
    session_date = DateField()
    symbol = TextField()
    quantity = NumericField()
    average_price = NumericField()

    class Meta:
        """The primary key finds the positions of a portfolio. A portfolio is deleted with its positions."""

        table_name = "positions"
        primary_key = CompositeKey("user_id", "session_date", "symbol")
        constraints: ClassVar[list[Any]] = [
            _portfolio("positions"),
            Check(f"symbol ~ '{SYMBOL_PATTERN}'", name="positions_symbol_format"),
            Check("quantity > 0 AND quantity < 'Infinity'", name="positions_quantity_positive"),
            Check("average_price > 0 AND average_price < 'Infinity'", name="positions_price_positive"),
        ]


class Trade(Model):
    """One purchase or sale of a player in a session."""

    id = _id()
    user_id = UUIDField()
    session_date = DateField()
    symbol = TextField()
    side = CharField(4)
    quantity = NumericField()
    price = NumericField()
    executed_at = _now()

    class Meta:
        """The first index finds the trades of a session or of a portfolio, the second finds trades by time.

        A BRIN index is enough for the time, because trades are stored in order of time.
        """

        table_name = "trades"
        constraints: ClassVar[list[Any]] = [
            _portfolio("trades"),
            Check(f"symbol ~ '{SYMBOL_PATTERN}'", name="trades_symbol_format"),
            Check(_one_of("side", TRADE_SIDES), name="trades_side"),
            Check("quantity > 0 AND quantity < 'Infinity'", name="trades_quantity_positive"),
            Check("price > 0 AND price < 'Infinity'", name="trades_price_positive"),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL("CREATE INDEX trades_portfolio ON trades (session_date, user_id, executed_at, id)"),
            SQL("CREATE INDEX trades_executed ON trades USING brin (executed_at) WITH (autosummarize = on)"),
        ]


class Quest(Model):
    """A task of a player, with a target, and often with a reward."""

    id = _id()
    user = _user("quests")
    type = CharField(50)
    title = CharField(200)
    description = TextField(null=True)
    target_value = DecimalField(15, 2)
    current_progress = DecimalField(15, 2, constraints=[SQL("DEFAULT 0")])
    status = CharField(20, constraints=[SQL("DEFAULT 'ACTIVE'")])
    reward_type = CharField(50, null=True)
    reward_value = DecimalField(15, 2, null=True)
    created_at = _now()
    expires_at = DateTimeTZField(null=True)
    completed_at = DateTimeTZField(null=True)

    class Meta:
        """Two indexes contain only active quests, because most quests are finished."""

        table_name = "quests"
        constraints: ClassVar[list[Any]] = [
            Check(_one_of("status", QUEST_STATUSES), name="quests_status"),
            Check("target_value > 0", name="quests_target_value_sign"),
            Check("current_progress >= 0", name="quests_current_progress_sign"),
            Check(
                f"type <> '' AND title <> '' AND reward_type <> '' AND {_DESCRIPTION}", name="quests_texts"
            ),
            Check(
                "'NaN' NOT IN (target_value, current_progress)"
                " AND reward_value >= 0 AND reward_value <> 'NaN'",
                name="quests_numbers",
            ),
            Check(
                "completed_at IS NULL OR status = 'COMPLETED' AND completed_at >= created_at",
                name="quests_completed_at",
            ),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL("CREATE INDEX quests_user_created ON quests (user_id, created_at)"),
            SQL("CREATE INDEX quests_active ON quests (user_id, created_at) WHERE status = 'ACTIVE'"),
            SQL("CREATE INDEX quests_expiring ON quests (expires_at) WHERE status = 'ACTIVE'"),
            SQL("CREATE INDEX quests_completed ON quests (completed_at) WHERE completed_at IS NOT NULL"),
            SQL(
                "CREATE INDEX quests_undated ON quests (id)"
                " WHERE status = 'COMPLETED' AND completed_at IS NULL"
            ),
        ]


class QuestCounter(Model):
    """Counts of the quests that end on a day.

    `quests` counts all of them, `started` those with any progress, and `halfway` those that reached half of
    their target. A completed quest counts as started and halfway too. `rewards` is the sum of the rewards.

    Each day, type, kind of reward and status has its own counts. Triggers may insert several rows for the
    same count: the count is the sum of these rows. A quest ends when it is completed. A quest that is not
    completed ends when it expires.
    """

    ended_on = DateField(null=True)
    type = CharField(50)
    reward_type = CharField(50, null=True)
    status = CharField(20)
    quests = BigIntegerField()
    started = BigIntegerField()
    halfway = BigIntegerField()
    rewards = NumericField()

    class Meta:
        """There is no index, because a report reads all rows, and the table is small."""

        table_name = "quest_counters"
        primary_key = False


class LeaderboardEntry(Model):
    """The score of a player on a leaderboard. A leaderboard is a category in one session."""

    id = _id()
    user = _user("leaderboard_entries")
    session_date = DateField()
    category = CharField(50)
    score = DecimalField(15, 2)
    rank = IntegerField(null=True)
    metadata = BinaryJSONField(index=False, constraints=[SQL("DEFAULT '{}'")])
    created_at = _now()

    class Meta:
        """The second index has the order of a leaderboard: reading a page reads only the entries of the page.

        Half of each block stays free for the ranks, which are written when a session is closed.
        """

        table_name = "leaderboard_entries"
        table_settings = "WITH (fillfactor = 50)"
        constraints: ClassVar[list[Any]] = [
            Check("rank > 0", name="leaderboard_entries_rank_sign"),
            Check(f"category ~ '{CATEGORY_PATTERN}'", name="leaderboard_entries_category"),
            Check("score <> 'NaN'", name="leaderboard_entries_score"),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL(
                "CREATE UNIQUE INDEX leaderboard_entries_user_board"
                " ON leaderboard_entries (user_id, session_date, category)"
            ),
            SQL(
                "CREATE INDEX leaderboard_entries_board ON leaderboard_entries"
                " (session_date, category, score DESC, created_at, id) INCLUDE (user_id)"
            ),
        ]


class LeaderboardCounter(Model):
    """The number of entries in a bucket, which is a range of the entries of a leaderboard.

    `depth` (minus the score), `created_at` and `id` are the start of the bucket, in the order of the
    leaderboard. The bucket ends where the next one starts. Triggers may insert several rows with the same
    start: the number of entries of the bucket is the sum of these rows.
    """

    session_date = DateField()
    category = CharField(50)
    depth = NumericField()
    created_at = DateTimeTZField()
    id = UUIDField()
    entries = BigIntegerField()

    class Meta:
        """The index has all columns that queries read, so that index-only scans are possible."""

        table_name = "leaderboard_counters"
        primary_key = False
        indexes: ClassVar[list[Any]] = [
            SQL(
                "CREATE INDEX leaderboard_counters_bucket ON leaderboard_counters"
                " (session_date, category, depth, created_at, id) INCLUDE (entries)"
            ),
        ]


class MarketEvent(Model):
    """An event that moved the market."""

    id = _id()
    type = CharField(50)
    title = CharField(200)
    description = TextField(null=True)
    affected_symbols = ArrayField(TextField, index=False, constraints=[SQL("DEFAULT '{}'")])
    impact_magnitude = DecimalField(5, 2, null=True)
    sentiment = CharField(20, constraints=[SQL("DEFAULT 'NEUTRAL'")])
    created_at = _now()

    class Meta:
        """The first index is for reading all events, newest first; the second is for the events of a type."""

        table_name = "market_events"
        constraints: ClassVar[list[Any]] = [
            Check(_one_of("sentiment", SENTIMENTS), name="market_events_sentiment"),
            Check(f"type <> '' AND title <> '' AND {_DESCRIPTION}", name="market_events_texts"),
            Check(
                "array_position(affected_symbols, NULL) IS NULL"
                rf" AND affected_symbols::text ~ '^\{{({_QUOTED_SYMBOL}(,{_QUOTED_SYMBOL})*)?\}}$'",
                name="market_events_symbols",
            ),
            Check("impact_magnitude <> 'NaN'", name="market_events_impact"),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL("CREATE INDEX market_events_recent ON market_events (created_at DESC, id DESC)"),
            SQL("CREATE INDEX market_events_type ON market_events (type, created_at DESC, id DESC)"),
        ]


class AuditEvent(Model):
    """An action of a person, or a change that a person made to a row; append-only.

    The table is partitioned by month. The migrations and `maintain_audit_log` create the partitions. An
    action that takes time has two rows: the first for its start, the second for its outcome. `start_id` of
    the second row is the id of the first.
    """

    id = UUIDField(constraints=[SQL("DEFAULT gen_random_uuid()")])
    created_at = _now()
    actor = CharField(320)
    action = CharField(50)
    target = CharField(200)
    row_key = UUIDField(null=True)
    before = BinaryJSONField(index=False, null=True)
    after = BinaryJSONField(index=False, null=True)
    outcome = CharField(20, constraints=[SQL("DEFAULT 'done'")])
    detail = TextField(null=True)
    request_id = CharField(200, null=True)
    start_id = UUIDField(null=True)
    transaction_id = BigIntegerField(constraints=[SQL("DEFAULT (pg_current_xact_id()::text)::bigint")])

    class Meta:
        """The indexes find actions, changes of a row, outcomes of actions, and events of a transaction."""

        table_name = "audit_events"
        primary_key = CompositeKey("created_at", "id")
        table_settings = "PARTITION BY RANGE (created_at)"
        constraints: ClassVar[list[Any]] = [
            Check(
                _one_of("action", (*get_args(AuditAction), *get_args(AuditChange))),
                name="audit_events_action",
            ),
            Check(_one_of("outcome", get_args(AuditOutcome)), name="audit_events_outcome"),
            Check(
                f"(row_key IS NOT NULL) = ({_one_of('action', get_args(AuditChange))})",
                name="audit_events_row_key",
            ),
        ]
        indexes: ClassVar[list[Any]] = [
            SQL(
                "CREATE INDEX audit_events_actions ON audit_events (created_at DESC, id DESC)"
                " WHERE row_key IS NULL AND start_id IS NULL"
            ),
            SQL(
                "CREATE INDEX audit_events_row ON audit_events (row_key, created_at DESC, id DESC)"
                " WHERE row_key IS NOT NULL"
            ),
            SQL("CREATE INDEX audit_events_start ON audit_events (start_id) WHERE start_id IS NOT NULL"),
            SQL("CREATE INDEX audit_events_transaction ON audit_events (transaction_id)"),
        ]


class AuditSeal(Model):
    """The seal of a batch of audit events: a digest of each event, and the hash of the previous seal."""

    number = BigIntegerField(primary_key=True)
    sealed_at = DateTimeTZField()
    partition = TextField()
    first_at = DateTimeTZField()
    last_at = DateTimeTZField()
    events = IntegerField()
    up_to = BigIntegerField()
    system = BigIntegerField()
    manifest = BlobField()
    previous_hash = BlobField()
    hash = BlobField()

    class Meta:
        """The index finds the seals with a time range that contains the time of an event."""

        table_name = "audit_seals"
        indexes: ClassVar[list[Any]] = [
            SQL(
                "CREATE INDEX audit_seals_range ON audit_seals"
                " USING gist (tstzrange(first_at, last_at, '[]'))"
            ),
        ]


class AuditRetention(Model):
    """The least number of months of the audit log to keep. Without a row, all months are kept."""

    id = IntegerField(primary_key=True, constraints=[SQL("DEFAULT 1")])
    keep_months = IntegerField()

    class Meta:
        """Only the owner role may write this table."""

        table_name = "audit_retention"
        constraints: ClassVar[list[Any]] = [
            Check("id = 1", name="audit_retention_one"),
            Check("keep_months BETWEEN 1 AND 1200", name="audit_retention_months"),
        ]


ALL_MODELS: tuple[type[Model], ...] = (
    User,
    Tick,
    Symbol,
    Portfolio,
    Position,
    Trade,
    Quest,
    QuestCounter,
    LeaderboardEntry,
    LeaderboardCounter,
    MarketEvent,
    AuditEvent,
    AuditSeal,
    AuditRetention,
)
