"""The one service of this process, where page scripts can find it.

Owns the hand-over: the server's lifespan (or a test) puts the service in, scripts
take it out. Never opens or closes it. A holder is needed because Streamlit executes
page scripts itself and passes them no argument.
"""

from core import EnhancedDatabaseService


class _Holder:
    service: EnhancedDatabaseService | None = None


def set_service(service: EnhancedDatabaseService | None) -> None:
    """Make `service` the one that page scripts use; None takes it away."""
    _Holder.service = service


def get_service() -> EnhancedDatabaseService:
    """Return the service of this process; raises `RuntimeError` before it was set."""
    if _Holder.service is None:
        raise RuntimeError("no service is set; start the pages with `python -m dashboard`")
    return _Holder.service
