"""What the dashboard's server refuses, and the headers of what it answers."""

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


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand in for Streamlit: take every connection and set a cookie."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    headers = [(b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2; Path=/")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"page"})


def ask(
    app: Any, path: str = "/", *, kind: str = "http", method: str = "GET", **values: Any
) -> list[Message]:
    """Send one request and return the messages of its answer."""
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
    """Return the headers of an answer; of two with one name, both."""
    found: dict[str, str] = {}
    for raw_name, value in message["headers"]:
        name = raw_name.decode().lower()
        found[name] = f"{found[name]}, {value.decode()}" if name in found else value.decode()
    return found


def shield(policy: Policy = OPEN) -> Shield:
    """Return the layer in front of the stand-in."""
    return Shield(answer, policy=policy, content_policy="default-src 'none'")


def test_every_answer_has_the_headers() -> None:
    """Pages and refusals have them; without TLS there is no strict transport security."""
    for path in ("/", "/_stcore/metrics"):
        headers = read_headers(ask(shield(), path)[0])
        assert headers["content-security-policy"] == "default-src 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "camera=()" in headers["permissions-policy"]
        assert "strict-transport-security" not in headers


@pytest.mark.parametrize(
    "content", ["text/javascript; charset=utf-8", "text/css; charset=utf-8", "font/woff2"]
)
def test_what_is_no_page_has_the_headers_that_count_there(content: str) -> None:
    """Scripts and styles have few headers: 130 files of a first visit would have 500 useless bytes each."""

    async def answer_asset(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("x", headers={"content-type": content})(scope, receive, send)

    headers = read_headers(ask(Shield(answer_asset, policy=OPEN, content_policy="default-src 'none'"))[0])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "content-security-policy" not in headers


def test_tls_makes_cookies_secure() -> None:
    """This holds behind a proxy that ends TLS too: the scheme comes from its header."""
    headers = read_headers(ask(shield(PROXIED), scheme="https")[0])
    assert headers["strict-transport-security"] == "max-age=31536000"
    assert headers["set-cookie"] == "a=1; Path=/; Secure, b=2; Path=/; Secure"
    assert read_headers(ask(shield())[0])["set-cookie"] == "a=1; Path=/, b=2; Path=/"


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
def test_internals_are_not_public(path: str, status: int) -> None:
    """Only the paths of Streamlit that a page needs are answered."""
    assert ask(shield(), path)[0]["status"] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_sent_by_http(method: str) -> None:
    """Every method other than GET and HEAD is refused."""
    assert ask(shield(), method=method)[0]["status"] == 405


@pytest.mark.parametrize(
    ("policy", "headers", "is_accepted"),
    [
        (OPEN, {"origin": "http://127.0.0.1:8501"}, True),
        (OPEN, {}, False),
        (OPEN, {"origin": "null"}, False),
        (OPEN, {"origin": "http://127.0.0.1:9999"}, False),
        (OPEN, {"origin": "https://evil.example"}, False),
        # a name of somebody else's that leads here
        (OPEN, {"origin": "http://evil.example:8501", "host": "evil.example:8501"}, False),
        (SIGNED, {"origin": "https://dash.example", "host": "inside:8501"}, True),
        (SIGNED, {"origin": "https://evil.example", "host": "inside:8501"}, False),
        (PROXIED, {"origin": "https://dash.example", "x-forwarded-host": "dash.example"}, True),
        (OPEN, {"origin": "https://dash.example", "x-forwarded-host": "dash.example"}, False),
        # a scheme that no page of this dashboard has
        (OPEN, {"origin": "https://127.0.0.1:8501"}, False),
        (OPEN, {"origin": "ftp://127.0.0.1:8501"}, False),
        (OPEN, {"origin": "chrome-extension://127.0.0.1:8501"}, False),
        (OPEN, {"origin": "http://evil@127.0.0.1:8501", "host": "evil@127.0.0.1:8501"}, False),
        (PROXIED, {"origin": "javascript://dash.example", "x-forwarded-host": "dash.example"}, False),
    ],
)
def test_a_websocket_comes_from_an_own_page(
    policy: Policy, headers: dict[str, str], *, is_accepted: bool
) -> None:
    """Any other WebSocket is refused before it is accepted."""
    [message] = ask(shield(policy), "/_stcore/stream", kind="websocket", headers=headers)
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
def test_without_sign_in_only_this_machine_has_a_name(policy: Policy, host: str, status: int) -> None:
    """A foreign name that resolves to 127.0.0.1 is refused."""
    assert ask(shield(policy), headers={"host": host})[0]["status"] == status


def test_a_request_with_two_lengths_is_refused() -> None:
    """Its connection is closed, because the rest may be a smuggled second request."""
    headers = {"content-length": "5", "transfer-encoding": "chunked"}
    refused = ask(shield(), "/livez", headers=headers)[0]
    assert refused["status"] == 400
    assert read_headers(refused)["connection"] == "close"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_come_under_any_name(path: str) -> None:
    """An orchestrator calls a process under an address of its own network."""
    assert ask(shield(), path, headers={"host": "10.0.0.7:8501"})[0]["status"] == 200


def sign_cookie(claims: dict[str, Any], *, secret: str = COOKIE_SECRET) -> dict[str, str]:
    """Return the header of who has signed in, as Streamlit signs it."""
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
def test_files_are_for_who_has_signed_in(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, headers: dict[str, str], status: int
) -> None:
    """A download is a separate request, so it needs the same cookie as the pages."""
    monkeypatch.setattr(security, "get_cookie_secret", lambda: COOKIE_SECRET)
    assert ask(shield(policy), "/download/leaderboard.csv", headers=headers)[0]["status"] == status


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
def test_each_request_has_its_limit(path: str, limiter: str | None) -> None:
    """Sign-ins and downloads have their own limits; probes and scripts have none."""
    settings = Settings(database_url=SecretStr("postgresql://echo@127.0.0.1/echo"))
    limit = choose_limit(settings, {"type": "http", "path": path})
    assert (limit and limit.limiter) == limiter


def test_the_content_policy_names_the_script_of_the_page() -> None:
    """The script is allowed by its hash; no other inline script and no eval is allowed."""
    policy = dict(part.split(" ", 1) for part in build_content_policy(INDEX).split("; "))
    assert policy["script-src"].startswith("'self' 'sha256-")
    assert "unsafe" not in policy["script-src"]
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


@pytest.fixture
def assets(tmp_path: Path) -> CompressedAssets:
    """Two files below a folder, and one beside it."""
    (tmp_path / "static" / "js").mkdir(parents=True)
    (tmp_path / "static" / "js" / "a.1234.js").write_text("alert(1);" * 500)
    (tmp_path / "static" / "font.woff2").write_text("font")
    (tmp_path / "secret.js").write_text("secret")
    (tmp_path / "static" / "MaterialSymbols-Rounded.1234.woff2").write_text("all icons")
    (tmp_path / "icons.woff2").write_text("icons that are used")
    return CompressedAssets(answer, folder=tmp_path / "static", icons=tmp_path / "icons.woff2")


def test_scripts_are_compressed_once_and_kept(assets: CompressedAssets, tmp_path: Path) -> None:
    """The second request reads no file; browsers keep it for a year."""
    path, headers = "/static/js/a.1234.js", {"accept-encoding": "gzip, br"}
    first = ask(assets, path, headers=headers)
    (tmp_path / path[1:]).unlink()
    start, body = ask(assets, path, headers=headers)
    assert [start, body] == first
    assert read_headers(start)["content-encoding"] == "gzip"
    assert read_headers(start)["cache-control"] == "public, immutable, max-age=31536000"
    assert read_headers(start)["content-type"] == "text/javascript; charset=utf-8"
    assert gzip.decompress(body["body"]) == b"alert(1);" * 500


def test_the_icon_font_is_replaced_by_the_icons_that_are_used(assets: CompressedAssets) -> None:
    """Every client gets the reduced font, whatever encoding it accepts."""
    start, body = ask(assets, "/static/MaterialSymbols-Rounded.1234.woff2", headers={})
    assert body["body"] == b"icons that are used"
    assert read_headers(start)["content-type"] == "font/woff2"


def test_every_icon_that_a_page_shows_is_sent() -> None:
    """After an update with new icons the font must be built again: an icon without a glyph shows its name."""
    sent = set((STATIC / "material-symbols.txt").read_text(encoding="utf-8").split())
    scripts = sorted((STREAMLIT_STATIC / "static" / "js").glob("*.js"))
    pages = sorted(STATIC.parent.rglob("*.py"))
    shown = {
        name
        for path in (*scripts, *pages)
        for name in re.findall(r":material/([a-z0-9_]+):", path.read_text(encoding="utf-8"))
    }
    # Streamlit draws this one itself: no version of the font has it
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
def test_everything_else_is_passed_on(assets: CompressedAssets, path: str, headers: dict[str, str]) -> None:
    """Requests for other files, and clients that do not accept gzip, reach Streamlit."""
    assert ask(assets, path, headers=headers)[1]["body"] == b"page"
