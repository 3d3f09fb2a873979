"""The log of statements: operation, text, duration and number of rows.

Owns the choice of the statements that are logged, and their format. The text has placeholders instead of
values, and of an error only the SQLSTATE is logged, because the server's message contains values. When the
log is off, connections use the unchanged cursor class, so it costs nothing.
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

# Longest logged text. A bulk insert repeats its placeholders a thousand times; its beginning identifies it.
TEXT_LETTERS = 1_000


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
        """Return a subclass of `base` whose statements are logged; `base` itself if the log is off."""
        if self._mode == "off":
            return base
        # local variables, because each statement reads them
        log, clock = self, self._clock
        noted_seconds = 0.0 if self._mode == "all" else self._slow_seconds

        class LoggedCursor(base):  # type: ignore[valid-type, misc]  # the class is an argument
            """A cursor whose statements are logged."""

            def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002  # psycopg2's name
                started = clock()
                try:
                    answer = super().execute(query, vars)
                except psycopg2.Error as error:
                    log.note(query, clock() - started, error=error.pgcode or type(error).__name__)
                    raise
                seconds = clock() - started
                if seconds >= noted_seconds:
                    log.note(query, seconds, rows=max(0, self.rowcount))
                return answer

            def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> Any:
                started = clock()
                try:
                    super().copy_expert(sql, file, size)
                except psycopg2.Error as error:
                    log.note(sql, clock() - started, error=error.pgcode or type(error).__name__)
                    raise
                log.note(sql, clock() - started, rows=max(0, self.rowcount))

        return LoggedCursor

    def note(self, text: Any, seconds: float, **outcome: Any) -> None:
        """Log a statement if it was slow or if the mode is `all`."""
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
        # the message repeats the fields, because a program's own logging configuration may not show them
        logger.log(
            logging.WARNING if is_slow else logging.INFO,
            "slow statement: %s took %.1f ms (%s)" if is_slow else "statement: %s took %.1f ms (%s)",
            operation,
            milliseconds,
            ", ".join(f"{name} {value}" for name, value in outcome.items()),
            extra={"fields": fields},
        )


def shorten(text: Any) -> str:
    """Return a statement on one line, cut if it is long.

    Of a statement in bytes only the type is shown, because psycopg2's helpers put values into it. The session
    settings in front of a statement are left out, because they are the same for every statement.
    """
    if not isinstance(text, str):
        return f"({type(text).__name__})"
    line = " ".join(text.rpartition(PREFIX_END)[2].split())
    return line if len(line) <= TEXT_LETTERS else f"{line[:TEXT_LETTERS]}…"
