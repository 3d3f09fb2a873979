"""The session settings (such as TimeZone) of our connections, whatever the server's defaults are.

Owns their names and values, and the three ways to set them: start-up options, the probe of a new connection,
and a prefix of each transaction in sessions that do not keep settings. Opens no connection.

A transaction pooler gives a client a server session for one transaction only. The pooler refuses start-up
options (PgBouncer's default) or ignores them (`ignore_startup_parameters = options`). A setting of the
session would remain for the next client of the session. So behind a pooler each transaction sets the
settings for itself.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from psycopg2.extensions import parse_dsn

from core.failover import TIMELINE_SQL, Timeline

# A custom parameter among our start-up options. If a session has it, no pooler shares the session.
MARK, MARKED = "echo_markets.session", "pinned"
# Without these settings, a result, an error or a duration would depend on defaults of the server or the role.
PINNED: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "default_transaction_isolation": "read committed",
    "array_nulls": "on",
    # with "off" a statement fails if a policy hides rows from it
    "row_security": "on",
    # before version 18 the server overestimates the cost of the leaderboard functions, and with jit would
    # compile each call for most of a second
    "jit": "off",
}
# Set only when a session starts, because the driver reads it only then, to decide how it quotes strings.
PINNED_AT_START: Mapping[str, str] = {"standard_conforming_strings": "on"}
# A comment between the session settings and the statement in the same message. The query log logs only what
# comes after this comment.
PREFIX_END = "/* session */ "
# Value of client_connection_check_interval: in this interval the server checks whether the client of a
# running statement has disconnected, and then ends the statement. It is set only on a server that runs on
# Linux, because the kernel must report a closed socket.
CLIENT_CHECK_MS = 1_000

# `usernames` is a table if the tables are distributed, and otherwise a view (core/database/citus.py).
IS_DISTRIBUTED = """COALESCE((
    SELECT relkind = 'r' FROM pg_class WHERE relname = 'usernames'
    AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())), false)"""


class SessionFacts(NamedTuple):
    """The facts that the server reported on a new connection."""

    is_pinned: bool
    """Whether the session has our settings and keeps them. False behind a transaction pooler."""
    schema: str | None
    """The current schema. Names of tables are looked up only there."""
    search_path: str
    """The search path that the session had before `schema` alone became the search path."""
    user: str
    database: str
    encoding: str
    is_standby: bool
    is_read_only: bool
    is_linux: bool
    may_stage: bool
    """Whether the role may create temporary tables."""
    is_distributed: bool
    """Whether the tables are distributed over a Citus cluster."""
    system: str
    """The system identifier, which is the same on a standby and its primary."""
    timeline: Timeline | None
    """The timeline of the database. None on a standby, because it can still change there."""


class OptionNotPossible(ValueError):
    """The URL has an option that can be set only at the start of a session."""


class SessionSettings:
    """The session settings of the connections to one URL. A timeout of 0 means no timeout.

    The default is no lock timeout, because the statement timeout includes the wait for a lock.
    """

    def __init__(self, url: str, *, statement_timeout_ms: int, lock_timeout_ms: int = 0) -> None:
        self._given = parse_dsn(url).get("options", "")
        self._pinned = {
            **PINNED,
            "statement_timeout": str(statement_timeout_ms),
            "lock_timeout": str(lock_timeout_ms),
        }

    @property
    def start_up_options(self) -> str:
        """The `options` for libpq: those of the URL, and after them ours, which override them."""
        ours = {**self._pinned, **PINNED_AT_START, MARK: MARKED}
        settings = (f"-c {name}={_escape_option(value)}" for name, value in ours.items())
        return " ".join([self._given, *settings]).lstrip()

    def build_probe(self, *, has_options: bool) -> str:
        """Return the first statement of a new connection. `parse_facts` reads its row.

        `has_options` says whether the start-up options were sent. In a session that no pooler shares, the
        statement also makes the current schema the search path. It sets our settings again too, because
        libpq's environment variables (`PGTZ`, `PGDATESTYLE`) override start-up options.
        """
        pins = ", ".join(f"({quote_text(name)}, {quote_text(value)})" for name, value in self._pinned.items())
        # without start-up options the session may be shared, and have the search path of another client
        given = (
            ""
            if has_options
            else "".join(f"{each} " for each in ("SET LOCAL search_path TO DEFAULT;", *self._list_given()))
        )
        return f"""{given}WITH session AS MATERIALIZED (
                SELECT COALESCE(current_setting({quote_text(MARK)}, true) = {quote_text(MARKED)}, false)
                           AS is_pinned,
                       current_schema(), current_setting('search_path'), current_user,
                       current_database(),
                       current_setting('server_encoding'), pg_is_in_recovery(),
                       current_setting('transaction_read_only') = 'on', version() LIKE '%linux%',
                       has_database_privilege(current_database(), 'TEMPORARY'), {IS_DISTRIBUTED},
                       (SELECT system_identifier::text FROM pg_control_system()), {TIMELINE_SQL}
            )
            SELECT session.*, (
                SELECT count(set_config(name, value, false)) FROM (VALUES
                    {pins}, ('search_path', quote_ident(current_schema) || ', pg_temp')
                ) AS pins (name, value) WHERE is_pinned AND value IS NOT NULL
            ) FROM session"""

    def build_prefix(self, facts: SessionFacts) -> str:
        """Return the statements that set the settings for one transaction.

        They need no extra round trip: they are sent in the message of the transaction's first statement.
        """
        local = dict(self._pinned)
        isolation = local.pop("default_transaction_isolation")
        if facts.is_linux:
            # let the server end the statement if the client is gone: behind a pooler the client cannot cancel
            # the statement, because it does not know the backend process id
            local["client_connection_check_interval"] = str(CLIENT_CHECK_MS)
        statements = [
            # first, because the server accepts this statement only before any query
            f"SET TRANSACTION ISOLATION LEVEL {isolation.upper()};",
            *self._list_given(frozenset() if facts.schema is None else frozenset({"search_path"})),
            *(f"SET LOCAL {name} = {quote_text(value)};" for name, value in local.items()),
        ]
        if facts.schema is not None:
            # pg_temp is last: a temporary table that another client has left must not hide our tables
            statements.append(f"SET LOCAL search_path = {quote_text(facts.schema)}, pg_temp;")
        return f"{' '.join(statements)} {PREFIX_END}"

    def _list_given(self, left_out: frozenset[str] = frozenset()) -> Iterator[str]:
        pinned = {name.lower() for name in (*self._pinned, *PINNED_AT_START)} | left_out
        for name, value in parse_options(self._given):
            if name.lower() not in pinned:
                yield f"SELECT set_config({quote_text(name)}, {quote_text(value)}, true);"


def parse_facts(row: tuple[Any, ...]) -> SessionFacts:
    """Return the facts in a row of the statement of `build_probe`."""
    *facts, timeline, _ = row
    return SessionFacts(*(*facts, Timeline.parse(timeline)))


def parse_options(options: str) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each setting in libpq's `options`.

    A setting is written `-c name=value`, `-cname=value` or `--name=value`. Raises `OptionNotPossible` for any
    other option: it has no name, and so cannot be set in a transaction.
    """
    words = _split_options(options)
    for word in words:
        if word == "-c":
            setting = next(words, "")
        elif word.startswith(("--", "-c")):
            setting = word[2:]
        else:
            raise OptionNotPossible(word)
        name, sign, value = setting.partition("=")
        if not sign:
            raise OptionNotPossible(word)
        yield name.replace("-", "_"), value


def find_missing_schema(facts: SessionFacts) -> str | None:
    """Return the schema that the search path names first, if it is missing. Otherwise return None.

    `$user`, the schema with the name of the role, may be missing.
    """
    for name in _list_names(facts.search_path):
        if name == facts.schema or (name == "$user" and facts.user == facts.schema):
            return None
        if name not in {"$user", "pg_temp"}:
            return name
    return None


def _list_names(search_path: str) -> Iterator[str]:
    """Yield the names in a comma-separated list of identifiers. Names may be quoted."""
    for quoted, plain in re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', search_path):
        yield quoted.replace('""', '"') or plain.lower()


def _split_options(options: str) -> Iterator[str]:
    """Split options at white space, as the server does. A backslash escapes the next character."""
    word, is_word, letters = "", False, iter(options)
    for letter in letters:
        if letter.isspace():
            if is_word:
                yield word
            word, is_word = "", False
        else:
            word, is_word = word + (next(letters, "") if letter == "\\" else letter), True
    if is_word:
        yield word


def _escape_option(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def quote_text(value: str) -> str:
    """Return an SQL string constant. Percent signs are escaped: they would begin a placeholder."""
    quoted = value.replace("'", "''")
    if "\\" in quoted or "%" in quoted:
        return "E'" + quoted.replace("\\", "\\\\").replace("%", "\\x25") + "'"
    return f"'{quoted}'"
