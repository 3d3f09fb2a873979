"""Runs the script of every open page again when the health of the stack changes.

All visitors then see the change in the health line, and pages need no timer for this line. Compares the
health checks of the sampler, and sends no request to a server.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from streamlit import runtime as streamlit_runtime
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession

from core import EnhancedDatabaseService
from core.records import Health
from dashboard import runtime
from dashboard.monitoring.sampler import Sampler

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Time between two comparisons of the health. It is short, because pages must show an outage within 5 s."""

PROBLEM_SECONDS = 60.0
"""Pause of `watch_health` after an error. In this time, pages refresh at their own intervals only."""


def list_sessions() -> Iterable[AppSession]:
    """Return the open sessions of Streamlit."""
    manager = streamlit_runtime.get_instance()._session_mgr  # noqa: SLF001  # docs/private-apis.md
    return [info.session for info in manager.list_active_sessions()]


def _describe_client(session: AppSession) -> ClientState:
    """Return the page, the address and the widget values of a session.

    Without the widget values, Streamlit would take the filters from the address of the last run. These old
    filters would then replace values that the visitor has entered after that run.
    """
    state = ClientState()
    state.CopyFrom(session._client_state)  # noqa: SLF001  # docs/private-apis.md
    state.widget_states.widgets.extend(session.session_state.get_widget_states())
    return state


def _is_busy(session: AppSession) -> bool:
    """Return whether the session's script runs, or messages of its last run have not been sent yet.

    A new run would drop these messages. One of them may be the only message with a filter's value from the
    address.
    """
    return session._scriptrunner is not None or not session._browser_queue.is_empty()  # noqa: SLF001  # docs/private-apis.md


class PageReruns:
    """Runs the pages of all sessions again after a change. Use it only in the event loop's thread.

    If the script of a session is running, its page runs again after that run, which may have begun before
    the change. The page and filters of the session are known only at the end of a run. The new run begins
    when the messages of the last one have been sent.
    """

    def __init__(self, list_sessions: Callable[[], Iterable[AppSession]] = list_sessions) -> None:
        self._list_sessions = list_sessions
        self._state: object = None
        self._waiting: frozenset[str] = frozenset()

    def update(self, state: object) -> None:
        """Run all open pages again if `state` has changed. If a page is busy, a later call runs it.

        The first call only stores `state`.
        """
        if self._state not in (None, state):
            runtime.count_update()
            self._waiting = frozenset(session.id for session in self._list_sessions())
        self._state = state
        if not self._waiting:
            return
        running = set()
        for session in self._list_sessions():
            if session.id not in self._waiting:
                continue
            if _is_busy(session):
                running.add(session.id)
            elif session.page_script_hash:
                session.request_rerun(_describe_client(session))
        self._waiting = frozenset(running)


async def watch_health(service: EnhancedDatabaseService, sampler: Sampler) -> None:
    """Pass each health check to the section reader, and run open pages again after changes.

    Ends when cancelled.
    """
    pages, reader = PageReruns(), runtime.get_reader()
    recorded: Health | None = None
    while True:
        try:
            sample = sampler.latest
            if sample is not None and sample.health is not recorded:
                recorded = sample.health
                reader.record_health(is_up=recorded.database != "unhealthy")
            # compare the values that the health line shows, because building its text would cost more
            found = sample and (sample.health.status, sample.problems, sample.incidents)
            today = datetime.now(UTC).date()
            pages.update((found, sampler.is_current, today, service.cache_stats().state))
        except Exception:
            # catch every error: another release of Streamlit may lack the private names that this module
            # uses
            logger.exception("open pages cannot be updated; next try in %g s", PROBLEM_SECONDS)
            await asyncio.sleep(PROBLEM_SECONDS)
        await asyncio.sleep(POLL_SECONDS)
