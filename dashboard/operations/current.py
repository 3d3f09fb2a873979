"""The one telemetry of this process, where the page's script can find it.

Owns the hand-over, as `dashboard.runtime` does for the service: Streamlit executes page scripts
itself and passes them no argument.
"""

from dashboard.operations.telemetry import Telemetry


class _Holder:
    telemetry: Telemetry | None = None


def set_telemetry(telemetry: Telemetry | None) -> None:
    """Make `telemetry` what the Operations page reads; None takes it away."""
    _Holder.telemetry = telemetry


def get_telemetry() -> Telemetry:
    """Return the telemetry of this process; raises `RuntimeError` before it was set."""
    if _Holder.telemetry is None:
        raise RuntimeError("no telemetry is set; start the pages with `python -m dashboard`")
    return _Holder.telemetry
