"""The log of statements: operation, text, duration and number of rows.

Owns the choice of the statements that are logged, and their format. A logged text has placeholders, not
values. An error is logged as its SQLSTATE alone, because the server's message contains values. If the log is
off, connections use the unchanged cursor class, so the log costs nothing.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import psycopg2
from psycopg2.extensions import cursor

from core.database.session_settings import PREFIX_END

logger = logging.getLogger(__name__)

Mode = Literal["slow", "all", "off"]

# Maximum length of a logged statement, in characters. A bulk insert repeats its placeholders a thousand
# times, and its beginning is enough to recognise it.
MAX_STATEMENT_CHARACTERS = 1_000


class QueryLog:
    """Logs the statements of one process; thread safe."""

    def __init__(
        self,
        mode: Mode,
        *,
        slow_seconds: float,
        find_operation: Callable[[], str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._mode = mode
        self._slow_seconds = slow_seconds
        self._find_operation = find_operation
        self._clock = clock

    def extend(self, base: type[cursor]) -> type[cursor]:
        """Return a subclass of `base` that logs its statements, or `base` itself if the log is off."""
        if self._mode == "off":
            return base
        # local variables are faster than attributes, and each statement reads them
        log, clock = self, self._clock
        min_seconds = 0.0 if self._mode == "all" else self._slow_seconds

        class LoggedCursor(base):  # type: ignore[valid-type, misc]  # the class is an argument
            def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002  # psycopg2's name
                started = clock()
                try:
                    answer = super().execute(query, vars)
                except psycopg2.Error as error:
                    log.record(query, clock() - started, error=error.pgcode or type(error).__name__)
                    raise
                seconds = clock() - started
                if seconds >= min_seconds:
                    log.record(query, seconds, rows=max(0, self.rowcount))
                return answer

            def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> Any:
                started = clock()
                try:
                    super().copy_expert(sql, file, size)
                except psycopg2.Error as error:
                    log.record(sql, clock() - started, error=error.pgcode or type(error).__name__)
                    raise
                log.record(sql, clock() - started, rows=max(0, self.rowcount))

        return LoggedCursor

    def record(self, text: Any, seconds: float, **outcome: Any) -> None:
        """Log a statement if it was slow, or if the mode is `all`. `outcome` is its `rows` or its `error`."""
        is_slow = seconds >= self._slow_seconds
        if not is_slow and self._mode != "all":
            return
        operation, milliseconds = self._find_operation(), round(seconds * 1000, 3)
        fields = {
            "operation": operation,
            "duration_ms": milliseconds,
            **outcome,
            "statement": shorten(text),
        }
        # the message repeats the fields, because the program's logging configuration may not show them
        logger.log(
            logging.WARNING if is_slow else logging.INFO,
            "slow statement: %s took %.1f ms (%s)" if is_slow else "statement: %s took %.1f ms (%s)",
            operation,
            milliseconds,
            ", ".join(f"{name} {value}" for name, value in outcome.items()),
            extra={"fields": fields},
        )


def shorten(text: Any) -> str:
    """Return a statement on one line, cut after MAX_STATEMENT_CHARACTERS characters.

    A statement in bytes is replaced by the name of its type: psycopg2's helpers put values into such texts.
    The session settings before a statement are left out, because they are the same for every statement.
    """
    if not isinstance(text, str):
        return f"({type(text).__name__})"
    line = " ".join(text.rpartition(PREFIX_END)[2].split())
    return line if len(line) <= MAX_STATEMENT_CHARACTERS else f"{line[:MAX_STATEMENT_CHARACTERS]}…"
