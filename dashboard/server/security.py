"""Refuses requests that no page of the dashboard makes, and adds security headers to every answer.

Owns the allowed methods, paths, hosts and origins, the security headers, and the check of the sign-in for
downloads. `access` has the rules of access, `request_limits` the limits of requests, and `connections` the
limits of WebSockets.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.auth_util import get_cookie_with_chunks
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from core.web.requests import PROBES, is_local_host, parse_host, refuse_unclear_length
from dashboard.server.access import Policy, identify
from dashboard.server.sign_outs import SignOuts, has_signed_out

INTERNAL = "/_stcore/"
INTERNAL_USED = frozenset({"/_stcore/health", "/_stcore/host-config", "/_stcore/stream"})
"""Streamlit's internal paths that a page needs. All others, for metrics, uploads and agents, are refused."""

METHODS = frozenset({"GET", "HEAD"})
"""The dashboard accepts no data over HTTP, because user input arrives over the WebSocket."""

DOWNLOADS = "/download/"
"""Start of the paths of downloads. Streamlit does not check the sign-in for these paths."""

HSTS_SECONDS = 365 * 24 * 3600

ASSET_CONTENT = ("text/javascript", "text/css", "font/")
"""Content types that no browser shows as a page. Files of these types get fewer headers: 500 bytes less."""

_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def build_content_policy(index: Path) -> str:
    """Return the Content-Security-Policy for the HTML page `index`.

    Allowed scripts are the files of this server, and the inline scripts of `index` by their hashes. Charts
    are interpreted and not compiled, so `unsafe-eval` is not needed. Inline styles are allowed because
    Streamlit's components create them while they draw.
    """
    scripts = _INLINE_SCRIPT.findall(index.read_text(encoding="utf-8"))
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' {hashes}".rstrip(),
            "style-src 'self' 'unsafe-inline'",
            "font-src 'self' data:",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def read_claims(cookies: Mapping[str, str], *, origin: str | None) -> dict[str, Any]:
    """Return the claims in Streamlit's sign-in cookie. Without a valid cookie, the result is empty.

    This is for HTTP requests such as downloads; a page gets its claims from its WebSocket. The cookie must
    be for `origin`, because another dashboard on this host may sign its cookies with the same secret.
    """

    def decode(name: str) -> bytes | None:
        value = cookies.get(name)
        return decode_signed_value(get_cookie_secret(), name, value.encode("latin-1")) if value else None

    try:
        claims = json.loads(get_cookie_with_chunks(decode, USER_COOKIE_NAME) or b"{}")
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) and claims.get("origin") == origin else {}


def is_known(policy: Policy, sign_outs: SignOuts, scope: Scope) -> bool:
    """Return whether a request has a valid sign-in, or needs none."""
    if not policy.has_sign_in:
        return True
    claims = read_claims(HTTPConnection(scope).cookies, origin=policy.origin)
    visitor = identify(policy, claims, now=datetime.now(UTC))
    return visitor is not None and not has_signed_out(visitor, sign_outs)


class Shield:
    """Refuses requests that no page makes, and adds security headers to every answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        policy: Policy,
        content_policy: str,
        sign_outs: SignOuts | None = None,
    ) -> None:
        self._app = app
        self._policy = policy
        self._sign_outs = sign_outs or SignOuts()
        self._asset_headers = {
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        self._headers = self._asset_headers | {
            "Content-Security-Policy": content_policy,
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "websocket" and not self._is_own_page(scope):
            # close before accepting the connection: the server then answers with status 403
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), is_secure=scope["scheme"] == "https")
            await send(message)

        refusal = refuse_unclear_length(Headers(scope=scope)) or self._find_refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _find_refusal(self, scope: Scope) -> PlainTextResponse | None:
        path = scope["path"]
        if path not in PROBES and not self._is_host_known(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("unknown host name", status_code=421)
        if scope["method"] not in METHODS:
            return PlainTextResponse("only GET is allowed", status_code=405, headers={"Allow": "GET, HEAD"})
        if path.startswith(INTERNAL) and path not in INTERNAL_USED:
            return PlainTextResponse("not found", status_code=404)
        if path.startswith(DOWNLOADS) and not is_known(self._policy, self._sign_outs, scope):
            return PlainTextResponse("sign in first", status_code=401)
        return None

    def _is_host_known(self, host: str) -> bool:
        """Return whether the name in a Host header is allowed.

        Without sign-in and proxy, only names of this machine are allowed. Otherwise a foreign page whose
        name resolves to 127.0.0.1 (DNS rebinding) would have the same origin as the dashboard.
        """
        name = parse_host(host)
        if name is None:
            return False
        return self._policy.has_sign_in or self._policy.is_behind_proxy or is_local_host(name)

    def _is_own_page(self, scope: Scope) -> bool:
        """Return whether a WebSocket comes from a page of this dashboard.

        Streamlit's own check is not used: it accepts a missing origin, and before it refuses a foreign
        origin, it asks a server on the internet for the public address of this machine. Behind a proxy, the
        page may use TLS although this connection does not.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_host_known(host):
            return False
        hosts, schemes = {host}, {"https" if scope["scheme"] == "wss" else "http"}
        if self._policy.is_behind_proxy:
            hosts |= {headers.get("x-forwarded-host", "")} - {""}
            schemes |= {"https"}
        own = {f"{scheme}://{name}" for scheme in schemes for name in hosts} | {self._policy.origin}
        return headers.get("origin") in own - {None}

    def _add_headers(self, headers: MutableHeaders, *, is_secure: bool) -> None:
        is_asset = headers.get("content-type", "").startswith(ASSET_CONTENT)
        for name, value in (self._asset_headers if is_asset else self._headers).items():
            headers.setdefault(name, value)
        if is_secure:
            headers["Strict-Transport-Security"] = f"max-age={HSTS_SECONDS}"
            cookies = headers.getlist("set-cookie")
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", cookie if "; Secure" in cookie else f"{cookie}; Secure")
