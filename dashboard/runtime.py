"""The one service of this process, where page scripts can find it.

Owns the hand-over: the server's lifespan (or a test) puts the service in, scripts
take it out, and with it the answers that they share for a few seconds. Never opens or
closes it. A holder is needed because Streamlit executes page scripts itself and passes
them no argument.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from streamlit import runtime

from core import EnhancedDatabaseService
from core.metrics import Metrics
from dashboard.recent import Recent


class _Holder:
    service: EnhancedDatabaseService | None = None
    recent = Recent()


def set_service(service: EnhancedDatabaseService | None) -> None:
    """Make `service` the one that page scripts use; None takes it away. Recent answers go."""
    _Holder.service = service
    _Holder.recent.clear()


def get_service() -> EnhancedDatabaseService:
    """Return the service of this process; raises `RuntimeError` before it was set."""
    if _Holder.service is None:
        raise RuntimeError("no service is set; start the pages with `python -m dashboard`")
    return _Holder.service


def get_recent() -> Recent:
    """Return the answers that all views of this process share for a few seconds."""
    return _Holder.recent


@contextmanager
def timed_render(page: str) -> Iterator[None]:
    """Record how long the script of the page with this title takes, whatever becomes of it."""
    started = time.perf_counter()
    try:
        yield
    finally:
        if _Holder.service is not None:
            _Holder.service.metrics.observe_render(page.lower(), time.perf_counter() - started)


def watch_sessions(metrics: Metrics) -> None:
    """Let the metrics follow how many browser sessions are connected."""

    def publish() -> None:
        if runtime.exists():
            name = "active_sessions"
            found = runtime.get_instance().stats_mgr.get_stats([name]).get(name, ())
            metrics.dashboard_sessions.set(sum(float(getattr(stat, "value", 0)) for stat in found))

    metrics.add_source(publish)
