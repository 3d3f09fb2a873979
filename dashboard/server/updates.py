"""Runs every open page again as soon as the health changes.

Owns the watch over the health and the list of pages that still have to run. So every change of the health
line reaches all visitors, and pages need no timer for it. Reads no server itself.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from streamlit import runtime as streamlit_runtime
from streamlit.runtime.app_session import AppSession

from core import EnhancedDatabaseService
from core.records import Health
from dashboard import runtime
from dashboard.monitoring.sampler import Sampler

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Time between two looks at the last health check, so that an outage is on the pages within 5 s."""

PROBLEM_SECONDS = 60.0
"""Pause after an error of the watch; pages then refresh at their own intervals only."""


def list_sessions() -> Iterable[AppSession]:
    """Return the open sessions of Streamlit."""
    manager = streamlit_runtime.get_instance()._session_mgr  # noqa: SLF001  # docs/private-apis.md
    return [info.session for info in manager.list_active_sessions()]


class OpenPages:
    """Runs the pages of all sessions again after a change; only for the thread of the event loop.

    A session whose script is running is run again afterwards: the run may have begun before the change, and
    its page and filters are known only at its end.
    """

    def __init__(self, list_sessions: Callable[[], Iterable[AppSession]] = list_sessions) -> None:
        self._list_sessions = list_sessions
        self._seen: object = None
        self._waiting: frozenset[str] = frozenset()

    def update(self, state: object) -> None:
        """Run each page again that was open when the state changed; the first state is no change."""
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
            if session._scriptrunner is not None:  # noqa: SLF001  # docs/private-apis.md
                running.add(session.id)
            elif session.page_script_hash:
                # as Streamlit does when a file of the page has changed
                session.request_rerun(session._client_state)  # noqa: SLF001  # docs/private-apis.md
        self._waiting = frozenset(running)


async def watch_health(service: EnhancedDatabaseService, sampler: Sampler) -> None:
    """Tell the reader of sections and all open pages about the health, until cancelled."""
    pages, reader = OpenPages(), runtime.get_reader()
    noted: Health | None = None
    while True:
        try:
            sample = sampler.latest
            if sample is not None and sample.health is not noted:
                noted = sample.health
                reader.note_health(is_up=noted.database != "unhealthy")
            # the values in the health line, which are cheaper to compare than its text
            found = sample and (sample.health.status, sample.problems, sample.incidents)
            today = datetime.now(UTC).date()
            pages.update((found, sampler.is_current, today, service.cache_stats().state))
        except Exception:
            # every error is caught here: another release of Streamlit may lack the private names used here
            logger.exception("open pages cannot be told of the health; next try in %g s", PROBLEM_SECONDS)
            await asyncio.sleep(PROBLEM_SECONDS)
        await asyncio.sleep(LOOK_SECONDS)
