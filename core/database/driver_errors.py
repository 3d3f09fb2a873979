"""Translates each driver error once, into an error of `core.errors`.

Owns the mapping from SQLSTATE to errors; never retries and never logs.
SQLSTATE classes: PostgreSQL documentation, appendix A.
"""

import re

import peewee
import psycopg2

from core.database.connector import ServerNotSupported
from core.database.statement_watch import StatementAbandoned
from core.errors import (
    ConnectFailed,
    ConnectionsExhausted,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    EchoMarketsError,
    NotSupported,
    NumberRefused,
    QueryTimeout,
    ServerHung,
    TransactionConflict,
)

FEATURE_NOT_SUPPORTED = "0A000"
QUERY_CANCELED = "57014"
# SQLSTATE classes: connection exceptions, insufficient resources, operator intervention.
_UNAVAILABLE_CLASSES = {"08", "53", "57"}
_INTEGRITY_CLASS = "23"
_DATA_CLASS = "22"
NUMBER_OUT_OF_RANGE = "22003"
READ_ONLY = "25006"
FOREIGN_KEY_VIOLATION = "23503"
SERIALIZATION_FAILURE = "40001"
DEADLOCK = "40P01"
LOCK_NOT_AVAILABLE = "55P03"
INSUFFICIENT_PRIVILEGE = "42501"
# SQLSTATEs of idle_in_transaction_session_timeout and transaction_timeout. Both end the session.
_ENDED_SESSION = {"25P03", "25P04"}
# psycopg2 gives no SQLSTATE when connecting fails. These parts of the messages of PostgreSQL (for SQLSTATE
# 53300), PgBouncer and Supavisor mean that there are too many connections.
_TOO_MANY = (
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "no more connections allowed",
    "max clients reached",
    "max client connections reached",
)
# Parts of libpq's messages about a server that `target_session_attrs` refuses.
_READ_ONLY_SERVER = ("session is read-only", "server is in hot standby mode")
READ_ONLY_CAUSES = (
    "either it is a standby (point DATABASE_URL at the primary), or default_transaction_read_only is on"
    " (an administrator or a quota of the provider set it)"
)
# libpq writes one line for each address of each host. An error message shows at most this many lines.
_MAX_LINES = 4
# Matches the beginning of a message of a server or a pooler, in any language: severity, colon, two spaces.
# libpq's own messages do not begin like this.
_REFUSAL = re.compile(r"(^|failed: )[^:]{1,40}:  ")
# Matches an address in the messages of libpq and of the server.
_ADDRESS = re.compile(r'(?P<kind>host|at|address|name|socket)( name)? "[^"]*"|\d+\.\d+\.\d+\.\d+')

# Matches a key in messages such as "Key (user_id)=(...) is not present in table", in any language.
_KEY = re.compile(r"\((?P<columns>[\w, ]+)\)=\((?P<values>.*)\)", re.DOTALL)

# Maximum length of a refused value in an error message, in characters.
MAX_SHOWN = 80

DRIVER_ERRORS = (peewee.PeeweeException, psycopg2.Error)

_CONFLICT = (
    TransactionConflict,
    "was rolled back by the server because of a concurrent transaction; repeat it",
)
_BY_STATE: dict[str, tuple[type[EchoMarketsError], str]] = {
    QUERY_CANCELED: (
        QueryTimeout,
        "was cancelled by the server after DATABASE_QUERY_TIMEOUT; ask for less or raise the timeout",
    ),
    READ_ONLY: (
        DatabaseUnavailable,
        f"found the database read-only: {READ_ONLY_CAUSES}",
    ),
    NUMBER_OUT_OF_RANGE: (NumberRefused, "got a number that PostgreSQL cannot hold; give fewer digits"),
    SERIALIZATION_FAILURE: _CONFLICT,
    DEADLOCK: _CONFLICT,
}


def find_sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver error, or None if the server sent none."""
    driver_error = _driver_error(error)
    return driver_error.pgcode if driver_error is not None else None


def is_connection_lost(error: BaseException) -> bool:
    """Return whether the connection that raised this error can no longer be used."""
    driver_error = _driver_error(error)
    if driver_error is None:
        return False
    state = driver_error.pgcode
    if state is None:
        # psycopg2 raises `DatabaseError` itself, no subclass, for an error that libpq found: for example, a
        # pooler closed the connection
        is_of_libpq = type(driver_error) is psycopg2.DatabaseError
        return is_of_libpq or isinstance(driver_error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return state in _ENDED_SESSION or (state != QUERY_CANCELED and state[:2] in {"08", "57"})


def translate(error: BaseException, operation: str) -> EchoMarketsError:
    """Return the error of `core.errors` for a driver error. Its message names the `operation`."""
    driver_error = _driver_error(error)
    state = driver_error.pgcode if driver_error is not None else None
    if state in _BY_STATE:
        kind, words = _BY_STATE[state]
        return kind(f"{operation} {words}")
    if isinstance(driver_error, StatementAbandoned):
        return ServerHung(
            f"{operation} was given up: {_reason(driver_error)};"
            " check that PostgreSQL is neither stopped nor cut off"
        )
    if state is not None and state[:2] == _INTEGRITY_CLASS and driver_error is not None:
        return _describe_violation(driver_error, operation)
    if is_connection_lost(error) or (state is not None and state[:2] in _UNAVAILABLE_CLASSES):
        return DatabaseUnavailable(
            f"{operation} could not use the database ({_reason(driver_error)});"
            " check that PostgreSQL is running and that DATABASE_URL names it"
        )
    if state == FEATURE_NOT_SUPPORTED:
        return NotSupported(
            f"{operation} is not possible in this database ({_reason(driver_error)}); docs/citus.md lists"
            " what is not possible where tables are distributed"
        )
    return DatabaseError(f"{operation} failed in the database ({_reason(driver_error)})")


def _describe_violation(error: psycopg2.Error, operation: str) -> ConstraintViolated:
    """Return an error that names the violated constraint and the refused values of its key.

    The rest of the server's detail is not shown: for a CHECK constraint it contains all values of the row.
    """
    key = _read_key(error.diag.message_detail or "")
    broken = error.diag.constraint_name or "a constraint"
    if error.diag.column_name and not error.diag.constraint_name:
        # before PostgreSQL 18 a NOT NULL constraint has no name
        broken = f"NOT NULL of {error.diag.table_name}.{error.diag.column_name}"
    shown = ", ".join(f"{column} {value}" for column, value in key.items())
    return ConstraintViolated(
        f"{operation} breaks {broken}{f' ({shown})' if shown else ''};"
        " give values that the constraint allows, and rows that exist",
        error.diag.constraint_name,
        key,
    )


def _read_key(detail: str) -> dict[str, str]:
    found = _KEY.search(detail)
    if found is None:
        return {}
    columns = found["columns"].split(", ")
    # only the last value may contain a comma: in our tables no other column of a key can
    values = found["values"].split(", ", len(columns) - 1)
    return {column: value[:MAX_SHOWN] for column, value in zip(columns, values, strict=False)}


def translate_connect(error: BaseException) -> ConnectFailed:
    """Return the error of `core.errors` for a connection that could not be opened."""
    driver_error = _driver_error(error)
    if isinstance(driver_error, ServerNotSupported):
        return ConnectFailed(str(driver_error))
    # libpq's message has one line for each address of each host
    lines = [line.strip() for line in str(driver_error or "no connection").splitlines() if line.strip()]
    failures = [line for line in lines if line.startswith("connection to server")] or lines[:1]
    reason = "; ".join(failures[:_MAX_LINES]) or "no message"
    remedy = "check that PostgreSQL is running and that DATABASE_URL names it"
    if any(words in reason.lower() for words in _TOO_MANY):
        return ConnectionsExhausted(
            f"cannot connect to the database ({reason}); raise max_connections of PostgreSQL, the limit of"
            " the role or of the pooler, or lower DATABASE_CONNECTION_LIMIT of other processes",
            is_refused=True,
        )
    if any(words in reason for words in _READ_ONLY_SERVER):
        remedy = READ_ONLY_CAUSES
    elif "certificate" in reason:
        remedy = (
            "check the host and sslrootcert of DATABASE_URL; `openssl s_client -starttls postgres -connect"
            " HOST:PORT -CAfile FILE` says what is wrong with the server's certificate"
        )
    is_refused = any(map(_REFUSAL.search, failures))
    return ConnectFailed(f"cannot connect to the database ({reason}); {remedy}", is_refused=is_refused)


def describe_refusal(error: BaseException) -> str:
    """Return why a connection could not be opened: the server's message without addresses."""
    driver_error = _driver_error(error)
    lines = [line.strip() for line in str(driver_error or error).splitlines() if line.strip()]
    # cut off the part up to "failed: ", in which libpq names the address
    reason = (lines[0] if lines else type(error).__name__).rpartition("failed: ")[2]
    return _ADDRESS.sub(lambda found: f"{found['kind']} (hidden)" if found["kind"] else "(hidden)", reason)


def _driver_error(error: BaseException | None) -> psycopg2.Error | None:
    while error is not None:
        if isinstance(error, psycopg2.Error):
            return error
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return None


def _reason(error: psycopg2.Error | None) -> str:
    if error is None:
        return "no connection"
    if error.pgcode is not None and error.pgcode[:2] == _DATA_CLASS:
        # the server's message is left out, because it contains the refused value
        return f"{error.pgcode}: {type(error).__name__}"
    # the first line only: the rest repeats the statement
    text = [*getattr(error, "__notes__", ()), *str(error).strip().splitlines()]
    return f"{error.pgcode or type(error).__name__}: {text[0] if text else 'no message'}"
