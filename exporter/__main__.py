"""Runs the exporter: `python -m exporter`, configured by the environment alone."""

import logging
import signal
import sys
from typing import NoReturn

import uvicorn

from core import Settings, open_service
from core.app import configure_logging
from core.errors import SettingsError
from exporter.server import build_app

# A scrape takes well under a second; what is still open then is a client that hangs.
SHUTDOWN_SECONDS = 2


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging(settings)
    logging.getLogger(__name__).info(
        "exporter listens on http://%s:%s/metrics", settings.exporter_host, settings.exporter_port
    )
    # uvicorn raises the signal again once it has stopped; the service must be closed then too
    signal.signal(signal.SIGTERM, _leave)
    with open_service(settings, role="exporter") as service:
        uvicorn.run(
            build_app(service, settings.metrics_dir),
            host=settings.exporter_host,
            port=settings.exporter_port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    return 0


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
