"""Opens connections to the server that a URL names, directly or through a pooler.

Owns libpq's parameters, the check that a server is supported, the session settings of a new connection, and
the conversion of UUID and JSONB values in rows. Keeps no connection.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self
from uuid import UUID

import msgspec
import psycopg2
from psycopg2.extensions import connection, cursor, new_type, parse_dsn, register_type

from core.database.session_settings import (
    OptionNotPossible,
    SessionFacts,
    SessionSettings,
    find_missing_schema,
    parse_facts,
)
from core.failover import FormerPrimary, KnownTimeline
from core.settings import Settings
from core.settings.secret_files import FileSecret

logger = logging.getLogger(__name__)

# With these settings a dead network is noticed after about 20 s. The kernel's defaults take 8 to 15 minutes.
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
# PostgreSQL 15, the oldest version in the test matrix.
MIN_SERVER_VERSION = 150_000
# Parts of the messages with which PgBouncer and Amazon RDS Proxy refuse start-up options.
_OPTIONS_REFUSED = ("unsupported startup parameter", "command-line options")


class ServerNotSupported(psycopg2.OperationalError):
    """The server answers, but this software cannot work with it."""


class Host(NamedTuple):
    """One host of a URL. The fields are libpq's parameters; one that the URL lacks is an empty string."""

    host: str
    hostaddr: str
    port: str

    def is_at(self, raw: connection) -> bool:
        """Return whether a connection leads to this host."""
        # without a port in the URL, libpq has connected to its default port, which `raw.info` reports
        port = int(self.port or raw.info.port)
        return (self.host or self.hostaddr, port) == (raw.info.host, raw.info.port)


class Hosts(NamedTuple):
    """The hosts of a URL, in the order in which they are tried."""

    hosts: tuple[Host, ...]
    is_list: bool
    """Whether the URL names several hosts."""
    choice: Mapping[str, str]
    """The libpq parameter that selects the first host that accepts writes (`target_session_attrs`).

    Empty if the URL has a single host, or already has this parameter.
    """

    @classmethod
    def of_url(cls, given: Mapping[str, str]) -> Self:
        """Return the hosts of a URL. `given` is the result of psycopg2's `parse_dsn` for the URL."""
        columns = [given.get(name, "").split(",") for name in Host._fields]
        count = max(map(len, columns))
        # one port in the URL, or none, applies to all hosts
        rows = zip(*(column * count if len(column) == 1 else column for column in columns), strict=True)
        is_list = count > 1
        needs_choice = is_list and "target_session_attrs" not in given
        choice = {"target_session_attrs": "read-write"} if needs_choice else {}
        return cls(tuple(map(Host._make, rows)), is_list, choice)

    def without(self, raw: connection) -> Self:
        """Return these hosts except the one to which `raw` is connected."""
        return self._replace(hosts=tuple(host for host in self.hosts if not host.is_at(raw)))

    def beginning_with(self, raw: connection) -> Self:
        """Return these hosts, beginning with the one to which `raw` is connected.

        The next connection then tries a host that works first. Trying an unreachable host takes seconds.
        """
        return self._replace(hosts=tuple(sorted(self.hosts, key=lambda host: not host.is_at(raw))))

    def build_parameters(self) -> dict[str, str]:
        """Return the hosts as libpq's parameters, or an empty dict if the URL has a single host."""
        if not self.is_list:
            return {}
        columns = zip(Host._fields, map(",".join, zip(*self.hosts, strict=True)), strict=True)
        return {name: column for name, column in columns if column.strip(",")}


class ServerConnection(connection):
    """A psycopg2 connection with the facts that its server reported."""

    facts: SessionFacts
    unit_prefix: str = ""
    """Statements to send before the first statement of each transaction. Empty if `keeps_session` is true."""

    @property
    def keeps_session(self) -> bool:
        """Whether all transactions run in the same session, with its settings and temporary tables.

        False behind a transaction pooler. There the next transaction may run in another session, and the
        connection's `backend_pid` is not the id of a server process.
        """
        return self.facts.is_pinned


class Connector:
    """Opens connections of one URL; thread safe."""

    def __init__(
        self,
        settings: Settings,
        application_name: str,
        *,
        url: str | None = None,
        statement_timeout_ms: int | None = None,
        lock_timeout_ms: int = 0,
        needs_schema: bool = True,
        timeline: KnownTimeline | None = None,
    ) -> None:
        """Open no connection yet.

        `url` defaults to DATABASE_URL, and `statement_timeout_ms` to DATABASE_QUERY_TIMEOUT. With
        `needs_schema` a connection is refused if the first schema of its search path is missing, because
        the next schema may contain another application's tables with the same names. With `timeline` a
        connection to a former primary is refused, and the timeline of each connection is noted there.
        """
        self.url = url or settings.database_url.get_secret_value()
        timeout_ms = settings.database_query_timeout if statement_timeout_ms is None else statement_timeout_ms
        self._session = SessionSettings(
            self.url, statement_timeout_ms=timeout_ms, lock_timeout_ms=lock_timeout_ms
        )
        self._application_name = application_name
        given = parse_dsn(self.url)
        self._password = given.get("password")
        stored = settings.database_password
        # a password in the URL has precedence over DATABASE_PASSWORD_FILE
        is_used = stored is not None and stored.get_secret_value() == self._password
        self._password_file = stored if is_used and isinstance(stored, FileSecret) else None
        self._names_host = "host" in given and "hostaddr" not in given
        self._hosts = Hosts.of_url(given)
        self._timeline = timeline
        # libpq takes whole seconds, and treats 1 as 2
        self._connect_timeout = max(2, round(settings.database_connect_timeout / 1000))
        self._needs_schema = needs_schema
        self._sends_options = True

    def open(self, *, cursor_factory: type[cursor] | None = None) -> ServerConnection:
        """Open a connection that commits each statement. Raises `psycopg2.Error`.

        If the URL has several hosts, this connects to the first one that accepts writes and is not a former
        primary.
        """
        hosts = self._hosts
        while True:
            raw = self._open(cursor_factory, hosts.build_parameters())
            try:
                if self._timeline is not None:
                    self._timeline.record_connected(raw.facts.timeline)
            except FormerPrimary as error:
                hosts = hosts.without(raw)
                raw.close()
                if not hosts.hosts:
                    raise ServerNotSupported(str(error)) from None
            except BaseException:
                raw.close()
                raise
            else:
                self._hosts = self._hosts.beginning_with(raw)
                return raw

    def _open(self, cursor_factory: type[cursor] | None, hosts: dict[str, str]) -> ServerConnection:
        raw = self.with_options(
            lambda parameters: psycopg2.connect(
                self.url,
                connection_factory=ServerConnection,
                cursor_factory=cursor_factory,
                **parameters | hosts,
            )
        )
        try:
            raw.autocommit = True
            with raw.cursor() as probe:

                def ask(statement: str) -> tuple[Any, ...]:
                    probe.execute(statement)
                    return probe.fetchone() or ()

                self.probe_session(raw, ask)
        except BaseException:
            raw.close()
            raise
        return raw

    def with_options(self, connect: Callable[[dict[str, Any]], ServerConnection]) -> ServerConnection:
        """Call `connect` with libpq's parameters and return its connection.

        If a pooler refuses the start-up options, `connect` is called again without them. If `connect` fails
        and DATABASE_PASSWORD_FILE has a new password, `connect` is called again with the new password.
        """
        used = self._password
        try:
            return self._connect(connect)
        except psycopg2.OperationalError:
            if not self._find_new_password(used):
                raise
        return self._connect(connect)

    def _find_new_password(self, used: str | None) -> bool:
        """Read DATABASE_PASSWORD_FILE again, and use its password. Return whether it differs from `used`."""
        found = None if self._password_file is None else self._password_file.read_again()
        if found is None or found == used:
            return False
        logger.info("DATABASE_PASSWORD_FILE has another password, which is used from now on")
        self._password = found
        return True

    def _connect(self, connect: Callable[[dict[str, Any]], ServerConnection]) -> ServerConnection:
        if self._sends_options:
            try:
                return connect(self._build_parameters(self._session.start_up_options))
            except psycopg2.OperationalError as error:
                if not any(words in str(error) for words in _OPTIONS_REFUSED):
                    raise
            self._stop_sending_options("refuses")
        # pass an empty value: without this parameter libpq would use PGOPTIONS from the environment
        return connect(self._build_parameters(""))

    def probe_session(self, raw: ServerConnection, ask: Callable[[str], tuple[Any, ...]]) -> None:
        """Set `facts` and `unit_prefix` of a new connection. Raises `ServerNotSupported`.

        `ask` runs a statement on the connection and returns its row.
        """
        version = raw.server_version
        if version < MIN_SERVER_VERSION:
            raise ServerNotSupported(
                f"PostgreSQL {version // 10_000}.{version % 10_000} is too old;"
                f" {MIN_SERVER_VERSION // 10_000} or newer is needed"
            )
        try:
            # read the attribute once: another thread sets it to False when a pooler refuses the options
            has_options = self._sends_options
            facts = parse_facts(ask(self._session.build_probe(has_options=has_options)))
            if has_options and not facts.is_pinned:
                self._stop_sending_options("drops")
                facts = parse_facts(ask(self._session.build_probe(has_options=False)))
            missing = find_missing_schema(facts) if self._needs_schema else None
            if missing is not None:
                raise ServerNotSupported(
                    f"the schema {missing!r}, which the search path ({facts.search_path}) names first, does"
                    " not exist for this role; create it and migrate, or correct the path"
                )
            raw.facts = facts
            if not facts.is_pinned:
                raw.unit_prefix = self._session.build_prefix(facts)
        except OptionNotPossible as error:
            raise ServerNotSupported(
                f"a pooler refuses start-up options, and {error} in the options of DATABASE_URL cannot"
                " be set later; write it as -c name=value"
            ) from None

    def _stop_sending_options(self, verb: str) -> None:
        self._sends_options = False
        logger.info("a pooler %s start-up options; each transaction gets its settings", verb)

    def _build_parameters(self, options: str) -> dict[str, Any]:
        """Return the parameters that libpq gets in addition to the URL. They override the environment."""
        return {
            "application_name": self._application_name,
            "client_encoding": "UTF8",
            "connect_timeout": self._connect_timeout,
            "options": options,
            **({} if self._password_file is None else {"password": self._password}),
            # PGHOSTADDR in the environment must not replace the host of the URL
            **({"hostaddr": ""} if self._names_host else {}),
            **self._hosts.choice,
            **KEEPALIVES,
        }


# -- values in rows -----------------------------------------------------------------------

UUID_OID = 2950
JSONB_OID = 3802


def _parse_id(text: str | bytes | None, _: object) -> UUID | None:
    return None if text is None else msgspec.convert(text, UUID)


def _parse_document(text: str | bytes | None, _: object) -> Any:
    if text == "{}":
        return {}
    return None if text is None else json.loads(text)


# By default psycopg2 parses UUIDs and JSON in Python code, and a leaderboard of 100 entries has 100 of each.
# msgspec parses a UUID in C. An empty JSON document is recognised without a parser.
_TYPES = (new_type((UUID_OID,), "UUID", _parse_id), new_type((JSONB_OID,), "JSONB", _parse_document))


def register_types(raw: connection) -> None:
    """Make a connection return UUID columns as `UUID`, and JSONB columns as Python objects."""
    for kind in _TYPES:
        register_type(kind, raw)
