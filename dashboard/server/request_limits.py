"""Decides which rate limit a request to the dashboard counts against: pages, downloads or sign-ins.

`core.web.rate_limits` counts the requests. The settings RATE_LIMIT_* limit the requests of a client per
minute.
"""

from starlette.types import Scope

from core import Settings
from core.web.rate_limits import RateLimit
from core.web.requests import PROBES
from dashboard.server.assets import ASSETS
from dashboard.server.security import DOWNLOADS

SIGN_INS = frozenset({"/auth/login", "/oauth2callback"})


def choose_limit(settings: Settings, scope: Scope) -> RateLimit | None:
    """Return the limit that a request counts against. Return None for probes, scripts and styles."""
    path = scope["path"]
    if path in PROBES or path.startswith(ASSETS):
        return None
    if path in SIGN_INS:
        return RateLimit("sign_in", settings.rate_limit_sign_in)
    if path.startswith(DOWNLOADS):
        return RateLimit("downloads", settings.rate_limit_downloads)
    return RateLimit("pages", settings.rate_limit_pages)
