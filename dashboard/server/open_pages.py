"""Runs every open page again as soon as the health changes.

Compares the last health check with the one before and keeps the list of pages that still have to run again.
This shows every change of the health line to all visitors, without timers in pages. Asks no server itself.
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

LOOK_SECONDS = 0.5
"""Time between two reads of the last health check; short, so that pages show an outage within 5 s."""

PROBLEM_SECONDS = 60.0
"""Pause of `watch_health` after an error; until then pages refresh at their own intervals only."""


def list_sessions() -> Iterable[AppSession]:
    """Return the open sessions of Streamlit."""
    manager = streamlit_runtime.get_instance()._session_mgr  # noqa: SLF001  # docs/private-apis.md
    return [info.session for info in manager.list_active_sessions()]


def _describe_client(session: AppSession) -> ClientState:
    """Return the page, address and widget values of the session's last run.

    Without the widget values, Streamlit would read filters from the address of that run and send them to the
    browser, where they would replace what the visitor has typed since.
    """
    state = ClientState()
    state.CopyFrom(session._client_state)  # noqa: SLF001  # docs/private-apis.md
    state.widget_states.widgets.extend(session.session_state.get_widget_states())
    return state


def _is_busy(session: AppSession) -> bool:
    """Say whether a run goes on, or its last messages are not sent yet: a new run would drop these.

    One of them may be the only one that tells the browser a filter's value from the address.
    """
    return session._scriptrunner is not None or not session._browser_queue.is_empty()  # noqa: SLF001  # docs/private-apis.md


class OpenPages:
    """Runs the pages of all browser sessions again after a change; use it only in the event loop's thread.

    If the script of a session is running, its page runs again after that run: the run may have begun before
    the change, and the page and filters of the session are known only at its end. The new run begins once the
    messages of that run are sent.
    """

    def __init__(self, list_sessions: Callable[[], Iterable[AppSession]] = list_sessions) -> None:
        self._list_sessions = list_sessions
        self._seen: object = None
        self._waiting: frozenset[str] = frozenset()

    def update(self, state: object) -> None:
        """Run the pages again that were open when the state last changed; the first state is no change."""
        if self._seen not in (None, state):
            runtime.count_update()
            self._waiting = frozenset(session.id for session in self._list_sessions())
        self._seen = state
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
    """Pass each health check to the section reader and update open pages after changes, until cancelled."""
    pages, reader = OpenPages(), runtime.get_reader()
    noted: Health | None = None
    while True:
        try:
            sample = sampler.latest
            if sample is not None and sample.health is not noted:
                noted = sample.health
                reader.note_health(is_up=noted.database != "unhealthy")
            # compare the values that the health line shows: building its text would cost more
            found = sample and (sample.health.status, sample.problems, sample.incidents)
            today = datetime.now(UTC).date()
            pages.update((found, sampler.is_current, today, service.cache_stats().state))
        except Exception:
            # every error is caught here: another release of Streamlit may lack the private names used here
            logger.exception("open pages cannot be told of the health; next try in %g s", PROBLEM_SECONDS)
            await asyncio.sleep(PROBLEM_SECONDS)
        await asyncio.sleep(LOOK_SECONDS)
