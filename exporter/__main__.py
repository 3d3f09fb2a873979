"""`python -m exporter` runs the exporter. Its settings come from environment variables only."""

import logging
import signal
import ssl
import sys
from collections.abc import Callable
from contextlib import closing
from typing import NoReturn

import uvicorn

from core import Settings, open_service
from core.app import configure_logging, refuse_arguments
from core.errors import SettingsError
from core.settings.stack_identity import HEADER
from core.web.client_deadlines import FEW_AHEAD, LOOP, protocol_options
from core.web.rate_limits import open_rate_limits
from exporter.access import load_web_config
from exporter.server import build_app, open_runners

# How long the exporter waits for open connections when it stops. A scrape takes less than a second; a
# connection that is open for longer belongs to a client that hangs.
SHUTDOWN_SECONDS = 2


def main() -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status."""
    try:
        refuse_arguments(sys.argv[1:], program="exporter")
        settings = Settings.load()
        web = load_web_config(settings.exporter_web_config)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging(settings)
    logging.getLogger(__name__).info(
        "exporter listens on %s://%s:%s/metrics",
        "https" if web.tls else "http",
        settings.exporter_host,
        settings.exporter_port,
    )
    # uvicorn raises SIGTERM again after its shutdown; this handler then ends the `with` block, which closes
    # the service
    signal.signal(signal.SIGTERM, _leave)
    stack = settings.identify_stack()
    with (
        open_service(settings, role="exporter") as service,
        closing(open_rate_limits(settings, role="exporter", count=service.metrics.count_limited)) as limits,
    ):
        uvicorn.run(
            build_app(
                service,
                runners=open_runners(settings, service.metrics),
                users=web.users,
                names=settings.list_exporter_names(),
                limits=limits,
                requests_per_minute=settings.rate_limit_exporter,
                stack=stack,
            ),
            headers=[(HEADER, str(stack))],
            host=settings.exporter_host,
            port=settings.exporter_port,
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ssl_context_factory=_tls_factory(web.tls),
            loop=LOOP,
            backlog=FEW_AHEAD,
            ws="none",
            **protocol_options(),
        )
    return 0


def _tls_factory(tls: ssl.SSLContext | None) -> Callable[..., ssl.SSLContext] | None:
    return None if tls is None else lambda *_: tls


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
