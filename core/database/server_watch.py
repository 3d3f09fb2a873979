"""Runs the same query on a server again and again, in its own thread and on its own connection.

Owns the thread, the connection and the interval. Callbacks handle the answers. No caller waits for a watch.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2

from core.database.bounded_connection import BoundedConnection, BoundedConnector
from core.metrics.names import APPLICATION_PREFIX
from core.settings import Settings

logger = logging.getLogger(__name__)

CLIENT_NAME = f"{APPLICATION_PREFIX}health"
SAMPLE_SECONDS = 0.25
# Timeout of the query. A server that does not answer any more is noticed after this time.
ANSWER_SECONDS = 1.0


class ServerWatch:
    """Runs one query on one server every quarter of a second until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        query: str,
        *,
        on_answer: Callable[[float, tuple[Any, ...]], None],
        on_failure: Callable[[psycopg2.Error], None],
    ) -> None:
        """Start no thread yet.

        `on_answer` is called with the monotonic time at which the query was sent, and the row that it
        returned. `on_failure` is called with the error.
        """
        self._query = query
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._connector = BoundedConnector(settings, CLIENT_NAME, limit_seconds=ANSWER_SECONDS)
        self._stopping = threading.Event()
        self._connection: BoundedConnection | None = None

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="server-watch", daemon=True).start()

    def stop(self) -> None:
        """Tell the thread to end. Does not wait for the thread."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._run_query()
            except Exception:
                # every error is caught here: without this thread no replica would be used again
                logger.exception("watching a server failed")
            self._stopping.wait(SAMPLE_SECONDS)
        self._close()

    def _run_query(self) -> None:
        asked_at = time.monotonic()
        try:
            if self._connection is None:
                self._connection = self._connector.open()
                asked_at = time.monotonic()
            row = self._connection.execute_sql(self._query).fetchone()
        except psycopg2.Error as error:
            self._close()
            self._on_failure(error)
        else:
            self._on_answer(asked_at, row)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
