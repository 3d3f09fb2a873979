"""What stands in front of every request: who may connect from where, and security headers.

Owns the ASGI layer around Streamlit's application. Refuses what no page of the dashboard
asks for; never answers anything else itself.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.access import Policy, identify, is_local_host
from dashboard.access_cookie import read_claims
from dashboard.access_limits import RateLimit

INTERNAL = "/_stcore/"
INTERNAL_USED = frozenset({"/_stcore/health", "/_stcore/host-config", "/_stcore/stream"})
"""What a page asks of Streamlit. Its metrics, uploads and interface for agents are nobody's business."""

PROBES = frozenset({"/livez", "/readyz"})
"""Asked under whatever name an orchestrator has for this process; they tell nothing else."""

METHODS = frozenset({"GET", "HEAD"})
"""Nothing is sent to the dashboard by HTTP: what people do comes over the WebSocket."""

DOWNLOADS = "/download/"
"""Files beside the pages, which Streamlit's own check of who has signed in does not cover."""

SIGN_INS = frozenset({"/auth/login", "/oauth2callback"})
SIGN_IN_LIMIT, SIGN_IN_SECONDS = 30, 60.0
"""Steps of signing in from one address in a minute; an office behind one address passes."""

HSTS_SECONDS = 365 * 24 * 3600
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def build_content_policy(index: Path) -> str:
    """Return the Content-Security-Policy of the pages that `index` starts.

    Scripts are files of this server and those that stand in `index` itself, by their hash:
    charts are interpreted and never compiled, so nothing needs `unsafe-eval`. Styles may be
    inline because Streamlit's components write theirs as they are drawn.
    """
    scripts = _INLINE_SCRIPT.findall(index.read_text(encoding="utf-8"))
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
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


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


class Shield:
    """Refuses foreign connections and puts security headers on every answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        policy: Policy,
        content_policy: str,
        count_sign_in: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._policy = policy
        self._count_sign_in = count_sign_in
        self._sign_ins = RateLimit(limit=SIGN_IN_LIMIT, seconds=SIGN_IN_SECONDS)
        self._headers = {
            "Content-Security-Policy": content_policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "websocket" and not self._is_own_page(scope):
            # before it is accepted, which the server answers with 403
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), is_secure=scope["scheme"] == "https")
            await send(message)

        refusal = self._find_refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _find_refusal(self, scope: Scope) -> PlainTextResponse | None:
        path = scope["path"]
        if path not in PROBES and not self._is_host_known(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("this dashboard is not called that", status_code=421)
        if scope["method"] not in METHODS:
            return PlainTextResponse("only GET is served", status_code=405, headers={"Allow": "GET, HEAD"})
        if path.startswith(INTERNAL) and path not in INTERNAL_USED:
            return PlainTextResponse("not found", status_code=404)
        if path in SIGN_INS:
            seconds = self._sign_ins.take((scope.get("client") or ("unknown",))[0])
            self._count_sign_in(seconds > 0)
            if seconds > 0:
                return PlainTextResponse(
                    "too many sign-ins", status_code=429, headers={"Retry-After": str(int(seconds) + 1)}
                )
        if path.startswith(DOWNLOADS) and self._is_anonymous(scope):
            return PlainTextResponse("sign in first", status_code=401)
        return None

    def _is_anonymous(self, scope: Scope) -> bool:
        """Return whether a file is asked for by nobody who has signed in, where somebody has to."""
        if not self._policy.has_sign_in:
            return False
        claims = read_claims(Request(scope).cookies, origin=self._policy.origin)
        return identify(self._policy, claims, now=datetime.now(UTC)) is None

    def _is_host_known(self, host: str) -> bool:
        """Return whether the name is one of this machine's, where the name is all that keeps others out.

        A page elsewhere whose name was made to lead to 127.0.0.1 would be of the same origin.
        """
        if self._policy.has_sign_in or self._policy.is_behind_proxy:
            return True
        return is_local_host(_find_name(host))

    def _is_own_page(self, scope: Scope) -> bool:
        """Return whether a WebSocket comes from a page that this dashboard served.

        Streamlit lets through what names no origin, and looks its own outside address up on the
        internet before it refuses a foreign one.
        """
        headers = Headers(scope=scope)
        origin, host = headers.get("origin", ""), headers.get("host", "")
        if not origin or not self._is_host_known(host):
            return False
        forwarded = headers.get("x-forwarded-host", "") if self._policy.is_behind_proxy else ""
        return origin == self._policy.origin or urlsplit(origin).netloc in {host, forwarded} - {""}

    def _add_headers(self, headers: MutableHeaders, *, is_secure: bool) -> None:
        for name, value in self._headers.items():
            headers.setdefault(name, value)
        if is_secure:
            headers["Strict-Transport-Security"] = f"max-age={HSTS_SECONDS}"
            cookies = headers.getlist("set-cookie")
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", cookie if "; Secure" in cookie else f"{cookie}; Secure")


def _find_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
