"""Requests that the dashboard's server refuses, and the headers of its responses."""

import asyncio
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import streamlit
from pydantic import SecretStr
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME

from core import Settings
from dashboard.server import security
from dashboard.server.access import Policy
from dashboard.server.assets import ICONS, CompressedAssets
from dashboard.server.index import STATIC
from dashboard.server.request_limits import choose_limit
from dashboard.server.security import Shield, build_content_policy

STREAMLIT_STATIC = Path(streamlit.__file__).with_name("static")
INDEX = STREAMLIT_STATIC / "index.html"
OPEN = Policy()
SIGNED = Policy(has_sign_in=True, origin="https://dash.example")
COOKIE_SECRET = "c" * 32
ALICE = {"is_logged_in": True, "sub": "1", "origin": "https://dash.example"}
PROXIED = Policy(is_behind_proxy=True)


async def serve_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand in for Streamlit: accept every connection, and set two cookies."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    headers = [(b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2; Path=/")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"page"})


def send_request(
    app: Any, path: str = "/", *, kind: str = "http", method: str = "GET", **values: Any
) -> list[Message]:
    """Send one request to an ASGI app; return the messages that the app sends."""
    headers = {"host": "127.0.0.1:8501"} | values.pop("headers", {})
    scope = {
        "type": kind,
        "path": path,
        "method": method,
        "scheme": values.pop("scheme", "http"),
        "client": (values.pop("client", "127.0.0.1"), 1),
        "query_string": values.pop("query_string", b""),
        "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(app(scope, receive, send))
    return sent


def read_headers(message: Message) -> dict[str, str]:
    """Return the headers of a response; the values of a repeated header are joined by commas."""
    found: dict[str, str] = {}
    for raw_name, value in message["headers"]:
        name = raw_name.decode().lower()
        found[name] = f"{found[name]}, {value.decode()}" if name in found else value.decode()
    return found


def build_shield(policy: Policy = OPEN) -> Shield:
    """Return the security middleware in front of the stand-in for Streamlit."""
    return Shield(serve_page, policy=policy, content_policy="default-src 'none'")


def test_every_response_has_the_security_headers() -> None:
    """Pages and refused requests have the security headers, and no HSTS header without TLS."""
    for path in ("/", "/_stcore/metrics"):
        headers = read_headers(send_request(build_shield(), path)[0])
        assert headers["content-security-policy"] == "default-src 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "camera=()" in headers["permissions-policy"]
        assert "strict-transport-security" not in headers


@pytest.mark.parametrize(
    "content", ["text/javascript; charset=utf-8", "text/css; charset=utf-8", "font/woff2"]
)
def test_files_have_few_security_headers(content: str) -> None:
    """Scripts, styles and fonts have no page headers, which would add 500 bytes to each of 130 files."""

    async def answer_asset(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("x", headers={"content-type": content})(scope, receive, send)

    headers = read_headers(
        send_request(Shield(answer_asset, policy=OPEN, content_policy="default-src 'none'"))[0]
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "content-security-policy" not in headers


def test_tls_makes_cookies_secure() -> None:
    """With HTTPS, also behind a proxy that ends TLS, cookies are Secure and HSTS is sent."""
    headers = read_headers(send_request(build_shield(PROXIED), scheme="https")[0])
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["set-cookie"] == "a=1; Path=/; Secure, b=2; Path=/; Secure"
    assert read_headers(send_request(build_shield())[0])["set-cookie"] == "a=1; Path=/, b=2; Path=/"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/portfolios", 200),
        ("/_stcore/health", 200),
        ("/_stcore/host-config", 200),
        ("/_stcore/metrics", 404),
        ("/_stcore/metrics/", 404),
        ("/_stcore/agent/interact", 404),
        ("/_stcore/upload_file/a/b", 404),
    ],
)
def test_unused_internal_paths_are_not_found(path: str, status: int) -> None:
    """Of Streamlit's internal paths, only those that a page needs are served; others are 404."""
    assert send_request(build_shield(), path)[0]["status"] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_than_get_and_head_are_refused(method: str) -> None:
    """Every method except GET and HEAD is refused with 405."""
    assert send_request(build_shield(), method=method)[0]["status"] == 405


@pytest.mark.parametrize(
    ("policy", "headers", "is_accepted"),
    [
        (OPEN, {"origin": "http://127.0.0.1:8501"}, True),
        (OPEN, {}, False),
        (OPEN, {"origin": "null"}, False),
        (OPEN, {"origin": "http://127.0.0.1:9999"}, False),
        (OPEN, {"origin": "https://evil.example"}, False),
        # a foreign host name that resolves to this server
        (OPEN, {"origin": "http://evil.example:8501", "host": "evil.example:8501"}, False),
        (SIGNED, {"origin": "https://dash.example", "host": "inside:8501"}, True),
        (SIGNED, {"origin": "https://evil.example", "host": "inside:8501"}, False),
        (PROXIED, {"origin": "https://dash.example", "x-forwarded-host": "dash.example"}, True),
        (OPEN, {"origin": "https://dash.example", "x-forwarded-host": "dash.example"}, False),
        # a scheme that the dashboard does not serve
        (OPEN, {"origin": "https://127.0.0.1:8501"}, False),
        (OPEN, {"origin": "ftp://127.0.0.1:8501"}, False),
        (OPEN, {"origin": "chrome-extension://127.0.0.1:8501"}, False),
        (OPEN, {"origin": "http://evil@127.0.0.1:8501", "host": "evil@127.0.0.1:8501"}, False),
        (PROXIED, {"origin": "javascript://dash.example", "x-forwarded-host": "dash.example"}, False),
    ],
)
def test_a_websocket_needs_the_origin_of_the_dashboard(
    policy: Policy, headers: dict[str, str], *, is_accepted: bool
) -> None:
    """A WebSocket is accepted only if its Origin header is that of the dashboard."""
    [message] = send_request(build_shield(policy), "/_stcore/stream", kind="websocket", headers=headers)
    assert (message["type"] == "websocket.accept") is is_accepted


@pytest.mark.parametrize(
    ("policy", "host", "status"),
    [
        (OPEN, "localhost:8501", 200),
        (OPEN, "[::1]:8501", 200),
        (OPEN, "evil.example:8501", 421),
        (OPEN, "", 421),
        (OPEN, "[", 421),
        (OPEN, "evil@127.0.0.1", 421),
        (OPEN, "evil.example@127.0.0.1:8501", 421),
        (OPEN, "127.0.0.1#.evil.example", 421),
        (OPEN, "127.0.0.1:8501/path", 421),
        (OPEN, "127.0.0.1?", 421),
        (OPEN, "127.0.0.1:port", 421),
        (OPEN, "127.0.0.1 ", 421),
        (OPEN, "localhost.evil.example", 421),
        (SIGNED, "evil@dash.example", 421),
        (PROXIED, "dash.example#", 421),
        (SIGNED, "dash.example", 200),
        (PROXIED, "dash.example", 200),
    ],
)
def test_without_sign_in_only_local_host_names_are_accepted(policy: Policy, host: str, status: int) -> None:
    """Without sign-in a Host header must be local, because a foreign name can resolve to 127.0.0.1."""
    assert send_request(build_shield(policy), headers={"host": host})[0]["status"] == status


def test_a_request_with_two_lengths_is_refused() -> None:
    """A request with two lengths may hide a second request, so it gets 400 and the connection is closed."""
    headers = {"content-length": "5", "transfer-encoding": "chunked"}
    refused = send_request(build_shield(), "/livez", headers=headers)[0]
    assert refused["status"] == 400
    assert read_headers(refused)["connection"] == "close"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_accept_any_host_header(path: str) -> None:
    """Probes accept any Host header, because an orchestrator uses an address of its own network."""
    assert send_request(build_shield(), path, headers={"host": "10.0.0.7:8501"})[0]["status"] == 200


def sign_cookie(claims: dict[str, Any], *, secret: str = COOKIE_SECRET) -> dict[str, str]:
    """Return request headers with a sign-in cookie that has these claims and Streamlit's signature."""
    value = create_signed_value(secret, USER_COOKIE_NAME, json.dumps(claims)).decode()
    return {"cookie": f"{USER_COOKIE_NAME}={value}", "host": "dash.example"}


@pytest.mark.parametrize(
    ("policy", "headers", "status"),
    [
        (OPEN, {}, 200),
        (SIGNED, {"host": "dash.example"}, 401),
        (SIGNED, sign_cookie(ALICE), 200),
        (SIGNED, sign_cookie(ALICE | {"is_logged_in": False}), 401),
        (SIGNED, sign_cookie(ALICE | {"origin": "https://other.example"}), 401),
        (SIGNED, sign_cookie(ALICE, secret="another secret of thirty-two chars"), 401),
        (SIGNED, {"cookie": f"{USER_COOKIE_NAME}=forged", "host": "dash.example"}, 401),
    ],
)
def test_downloads_need_the_sign_in_cookie(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, headers: dict[str, str], status: int
) -> None:
    """With sign-in, a download needs a valid sign-in cookie of this dashboard."""
    monkeypatch.setattr(security, "get_cookie_secret", lambda: COOKIE_SECRET)
    assert (
        send_request(build_shield(policy), "/download/leaderboard.csv", headers=headers)[0]["status"]
        == status
    )


@pytest.mark.parametrize(
    ("path", "limiter"),
    [
        ("/", "pages"),
        ("/portfolios", "pages"),
        ("/_stcore/stream", "pages"),
        ("/auth/login", "sign_in"),
        ("/oauth2callback", "sign_in"),
        ("/download/leaderboard.csv", "downloads"),
        ("/static/js/a.1234.js", None),
        ("/livez", None),
        ("/readyz", None),
    ],
)
def test_each_path_has_its_rate_limit(path: str, limiter: str | None) -> None:
    """Pages, sign-ins and downloads have separate rate limits; probes and scripts have none."""
    settings = Settings(database_url=SecretStr("postgresql://echo@127.0.0.1/echo"))
    limit = choose_limit(settings, {"type": "http", "path": path})
    assert (limit and limit.limiter) == limiter


def test_the_content_policy_allows_the_inline_script_by_hash() -> None:
    """The policy allows the page's inline script by its hash, and neither other inline scripts nor eval."""
    policy = dict(part.split(" ", 1) for part in build_content_policy(INDEX).split("; "))
    assert policy["script-src"].startswith("'self' 'sha256-")
    assert "unsafe" not in policy["script-src"]
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


@pytest.fixture
def assets(tmp_path: Path) -> CompressedAssets:
    """Return `CompressedAssets` of a folder with a script and two fonts, and a file outside the folder."""
    (tmp_path / "static" / "js").mkdir(parents=True)
    (tmp_path / "static" / "js" / "a.1234.js").write_text("alert(1);" * 500)
    (tmp_path / "static" / "font.woff2").write_text("font")
    (tmp_path / "secret.js").write_text("secret")
    (tmp_path / "static" / "MaterialSymbols-Rounded.1234.woff2").write_text("all icons")
    (tmp_path / "icons.woff2").write_text("icons that are used")
    return CompressedAssets(serve_page, folder=tmp_path / "static", icons=tmp_path / "icons.woff2")


def test_scripts_are_compressed_once_and_cached(assets: CompressedAssets, tmp_path: Path) -> None:
    """The second request is served without reading the file; browsers may cache the script for a year."""
    path, headers = "/static/js/a.1234.js", {"accept-encoding": "gzip, br"}
    first = send_request(assets, path, headers=headers)
    (tmp_path / path[1:]).unlink()
    start, body = send_request(assets, path, headers=headers)
    assert [start, body] == first
    assert read_headers(start)["content-encoding"] == "gzip"
    assert read_headers(start)["cache-control"] == "public, immutable, max-age=31536000"
    assert read_headers(start)["content-type"] == "text/javascript; charset=utf-8"
    assert gzip.decompress(body["body"]) == b"alert(1);" * 500


def test_the_icon_font_is_replaced_by_the_icons_that_are_used(assets: CompressedAssets) -> None:
    """Every client gets the reduced icon font, whether it accepts gzip or not."""
    start, body = send_request(assets, "/static/MaterialSymbols-Rounded.1234.woff2", headers={})
    assert body["body"] == b"icons that are used"
    assert read_headers(start)["content-type"] == "font/woff2"


def test_the_icon_font_has_every_shown_icon() -> None:
    """The reduced font must be rebuilt if an icon is added: an icon without a glyph shows its name."""
    sent = set((STATIC / "material-symbols.txt").read_text(encoding="utf-8").split())
    scripts = sorted((STREAMLIT_STATIC / "static" / "js").glob("*.js"))
    pages = sorted(STATIC.parent.rglob("*.py"))
    shown = {
        name
        for path in (*scripts, *pages)
        for name in re.findall(r":material/([a-z0-9_]+):", path.read_text(encoding="utf-8"))
    }
    # Streamlit draws this icon itself: no version of the font has a glyph for it
    assert shown - {"star_filled"} == sent
    assert (STATIC / "material-symbols.woff2").stat().st_size < 10_000
    assert list((STREAMLIT_STATIC / "static").rglob(f"{ICONS}*.woff2"))


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/static/js/a.1234.js", {}),
        ("/static/js/a.1234.js", {"accept-encoding": "br"}),
        ("/static/js/a.1234.js", {"accept-encoding": "gzip", "range": "bytes=0-9"}),
        ("/static/font.woff2", {"accept-encoding": "gzip"}),
        ("/static/../secret.js", {"accept-encoding": "gzip"}),
        ("/", {"accept-encoding": "gzip"}),
    ],
)
def test_other_requests_are_passed_to_streamlit(
    assets: CompressedAssets, path: str, headers: dict[str, str]
) -> None:
    """Requests for other files, requests with Range, and requests without gzip reach Streamlit."""
    assert send_request(assets, path, headers=headers)[1]["body"] == b"page"
