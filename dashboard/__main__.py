"""`python -m dashboard`: serves the dashboard; all settings come from environment variables."""

import sys

from core import Settings
from core.app import refuse_arguments
from core.errors import SettingsError
from dashboard.server.access import build_policy
from dashboard.server.workers import serve_with_workers

CONFIGURATION_WRONG = 2


def main() -> int:
    """Serve until a signal ends the process. Returns the exit status: 0, or 2 if a setting is wrong."""
    try:
        refuse_arguments(sys.argv[1:], program="dashboard")
        settings = Settings.load()
        build_policy(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return CONFIGURATION_WRONG
    if settings.dashboard_workers > 1:
        return serve_with_workers(settings)
    from dashboard.server.application import serve  # noqa: PLC0415  # report a wrong setting before imports that take seconds

    serve(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
