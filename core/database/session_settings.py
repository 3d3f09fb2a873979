"""The session settings that every statement runs with, whatever the server's defaults are.

Owns their names and values, and the three ways in which a connection gets them: start-up
options, the probe of a new connection, and, if a session does not keep its settings, a prefix of
each unit of work. Opens no connection.

A transaction pooler gives a server session to a client for one transaction only. It refuses
start-up options (PgBouncer's default) or drops them (`ignore_startup_parameters = options`), and
a setting of the session would remain for the next client. So behind a pooler the settings are
local to each transaction.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from psycopg2.extensions import parse_dsn

from core.failover import TIMELINE_SQL, Timeline

# A custom parameter among our start-up options: a session that has it is not shared by a pooler.
MARK, MARKED = "echo_markets.session", "pinned"
# Without these, an answer, an error or a duration would depend on a default of the server or the role.
PINNED: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "default_transaction_isolation": "read committed",
    "array_nulls": "on",
    # with "off" the server would refuse statements whose rows a policy filters
    "row_security": "on",
    # the plans of the leaderboard functions look expensive to a server before version 18, which would then
    # compile each call for most of a second
    "jit": "off",
}
# Set only at the start of a session, because the driver reads it once to decide how it quotes strings.
PINNED_AT_START: Mapping[str, str] = {"standard_conforming_strings": "on"}
# Marks the end of a unit of work's prefix, so that a log can leave the prefix out.
PREFIX_END = "/* session */ "
# client_connection_check_interval: the server ends a statement this soon after its client has disconnected.
CLIENT_CHECK_MS = 1_000
# The parameter exists since this server version; it works only if the kernel reports a closed socket.
CLIENT_CHECK_VERSION = 140_000

# With distributed tables `usernames` is a table, otherwise a view (core/database/citus.py).
IS_DISTRIBUTED = """COALESCE((
    SELECT relkind = 'r' FROM pg_class WHERE relname = 'usernames'
    AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())), false)"""


class SessionFacts(NamedTuple):
    """The facts that the server reported on a new connection."""

    is_pinned: bool
    """Whether the session has our settings and keeps them, so is not behind a transaction pooler."""
    schema: str | None
    """The current schema, the only one in which names are resolved."""
    search_path: str
    """The search path before it was replaced by `schema` alone."""
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
    """The timeline of the database; None on a standby."""


class OptionNotPossible(ValueError):
    """An option in the URL can be set only at the start of a session."""


class SessionSettings:
    """The session settings for one URL; a timeout of 0 means no timeout.

    By default there is no lock timeout, because the statement timeout includes the wait for a lock.
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
        """The `options` for libpq: those of the URL, then ours, which have precedence."""
        ours = {**self._pinned, **PINNED_AT_START, MARK: MARKED}
        settings = (f"-c {name}={_escape_option(value)}" for name, value in ours.items())
        return " ".join([self._given, *settings]).lstrip()

    def build_probe(self, *, has_options: bool) -> str:
        """Return the statement whose row `parse_facts` takes; it needs one round trip.

        In a session that is not shared, the statement also applies settings that start-up options cannot
        set: the schema as search path, and settings that libpq takes from the environment (`PGTZ`,
        `PGDATESTYLE`), which override start-up options.
        """
        pins = ", ".join(f"({quote_text(name)}, {quote_text(value)})" for name, value in self._pinned.items())
        # a shared session may still have the search path of another client
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

    def build_prefix(self, facts: SessionFacts, *, server_version: int) -> str:
        """Return the statements that give one transaction its settings.

        They need no extra round trip: they are sent in the message of the transaction's first statement.
        """
        local = dict(self._pinned)
        isolation = local.pop("default_transaction_isolation")
        if facts.is_linux and server_version >= CLIENT_CHECK_VERSION:
            # behind a pooler the client does not know the backend process id to cancel a statement with
            local["client_connection_check_interval"] = str(CLIENT_CHECK_MS)
        statements = [
            # first, because the server accepts it only before the first query
            f"SET TRANSACTION ISOLATION LEVEL {isolation.upper()};",
            *self._list_given(frozenset() if facts.schema is None else frozenset({"search_path"})),
            *(f"SET LOCAL {name} = {quote_text(value)};" for name, value in local.items()),
        ]
        if facts.schema is not None:
            # pg_temp comes last: a temporary table that another client has left must not hide our tables
            statements.append(f"SET LOCAL search_path = {quote_text(facts.schema)}, pg_temp;")
        return f"{' '.join(statements)} {PREFIX_END}"

    def _list_given(self, left_out: frozenset[str] = frozenset()) -> Iterator[str]:
        pinned = {name.lower() for name in (*self._pinned, *PINNED_AT_START)} | left_out
        for name, value in parse_options(self._given):
            if name.lower() not in pinned:
                yield f"SELECT set_config({quote_text(name)}, {quote_text(value)}, true);"


def parse_facts(row: tuple[Any, ...]) -> SessionFacts:
    """Return the facts from the row that the probe has returned."""
    *facts, timeline, _ = row
    return SessionFacts(*(*facts, Timeline.parse(timeline)))


def parse_options(options: str) -> Iterator[tuple[str, str]]:
    """Yield the settings in libpq's `options`: `-c name=value`, `-cname=value`, `--name=value`.

    Raises `OptionNotPossible` for any other option, because it has no name by which it could be set later.
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
    """Return a missing schema that comes before the current one in the search path, or None.

    A missing schema with the name of the role (`$user`) does not count.
    """
    for name in _list_names(facts.search_path):
        if name == facts.schema or (name == "$user" and facts.user == facts.schema):
            return None
        if name not in {"$user", "pg_temp"}:
            return name
    return None


def _list_names(search_path: str) -> Iterator[str]:
    """Yield the names in a comma-separated list of identifiers, some of which may be quoted."""
    for quoted, plain in re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', search_path):
        yield quoted.replace('""', '"') or plain.lower()


def _split_options(options: str) -> Iterator[str]:
    """Split like the server: at white space, but not after a backslash, which escapes the next character."""
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
    """Return an SQL string constant; percent signs are escaped, as the driver would read a placeholder."""
    quoted = value.replace("'", "''")
    if "\\" in quoted or "%" in quoted:
        return "E'" + quoted.replace("\\", "\\\\").replace("%", "\\x25") + "'"
    return f"'{quoted}'"
