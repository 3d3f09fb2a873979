"""Formats the logs of a process: one line for each message, as text or as JSON.

Owns the two formats. Keeps the values of rows out of the logs: only the class and the SQLSTATE of a driver
error are shown, because the server's message may contain values. A caller passes the fields of a message as
`extra={"fields": {...}}`.
"""

import json
import logging
import re
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import peewee
import psycopg2

LogFormat = Literal["text", "json"]

# At DEBUG, peewee logs every statement with its parameters. `core.database.query_log` logs statements without
# parameters.
SILENCED_LOGGERS = ("peewee",)

OWN_LOGGERS = ("core", "dashboard", "exporter", "echo_markets", "__main__")
"""The loggers that may log at DEBUG. At this level, libraries log cookies and headers."""

# Matches characters that end a line, move the cursor, or change colours or the direction of writing, and
# surrogates, which UTF-8 cannot encode.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def configure_logs(level: str, form: LogFormat) -> None:
    """Write the logs of this process, and Python's warnings, to standard error in the format `form`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level="INFO" if level == "DEBUG" else level, handlers=[handler])
    logging.captureWarnings(True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level if level == "DEBUG" else logging.NOTSET)
    for name in SILENCED_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def escape_controls(text: str) -> str:
    """Return the text on one line, with control characters escaped.

    Otherwise a text from outside, such as a user name, could forge a log line or control the terminal.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """Formats a record as one line: time, level, logger, message, and fields as `name=value`.

    A traceback follows on the next lines.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802  # logging's signature
        """Return the record's time in UTC, with milliseconds."""
        return _time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line of a record, with the fields at its end."""
        fields = (f" {name}={_quote(value)}" for name, value in _fields(record).items())
        return escape_controls(super().formatMessage(record) + "".join(fields))

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        """Return the traceback. It contains no message of the database driver."""
        return format_exception(ei[1])


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, process, fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON. A value that JSON cannot express is written as text."""
        document: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            document["exception"] = format_exception(record.exc_info[1])
        try:
            return msgspec.json.encode(document, enc_hook=str).decode()
        except UnicodeEncodeError:
            # a user's text may have a surrogate, which UTF-8 cannot encode: json.dumps escapes it as ASCII
            return json.dumps(document, default=str)


def format_exception(error: BaseException | None) -> str:
    """Return the tracebacks of an error and its causes, beginning with the original cause.

    The message of a driver error is left out.
    """
    lines = [line for item in reversed(list(_chain(error))) for line in _describe(item)]
    return "\n".join(lines)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _describe(error: BaseException) -> Iterator[str]:
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield "".join(traceback.format_tb(error.__traceback__)).rstrip()
    if isinstance(error, psycopg2.Error | peewee.PeeweeException):
        state = getattr(error, "pgcode", None)
        kind = type(error)
        yield f"{kind.__module__}.{kind.__qualname__}{f': SQLSTATE {state}' if state else ''}"
    else:
        yield escape_controls("".join(traceback.format_exception_only(error)).rstrip())


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "=\n') else text
