"""Hostile request headers, sent as bytes to the exporter and to the dashboard.

The server answers every request with 2xx, 3xx or 4xx, or closes the connection. It serves the next request on
the same connection and the next client, and logs no traceback.
"""

import base64
import gzip
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPException, HTTPResponse
from itertools import count
from pathlib import Path
from typing import NamedTuple

import bcrypt
import pytest

from core import Settings, open_service
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from core.testing import PostgresServer
from exporter.server import build_app
from tests.conftest import created_database
from tests.dashboard_process import run_dashboard
from tests.exporter_server import served
from tests.game import play_game
from tests.patience import stretch
from tests.unit.test_dashboard_security import COOKIE_SECRET, sign_cookie

# h11 accepts up to 64 kB of headers per request.
LARGE = 60_000
VALUES = (
    b"", b" ", b"\t", b"a\x00b", b"a\rb", b"a\nb", b"a\r\n b", b"a\r\nb", b"\x01", b"\x7f", b"\x80\xff",
    "é".encode(), b"\xed\xa0\x80", b"\xe2\x80\xae", b"=?utf-8?b?/w==?=", b'"', b'"a', b",", b";", b"=", b"*",
    b"a" * LARGE, b"a" * 70_000, b"," * LARGE, b";" * LARGE, b"=" * LARGE, b"a=b;" * 15_000, b"\xff" * LARGE,
    b"a=b," * 15_000, b"(" * LARGE, b"0", b"-1", b"+5", b"5", b"1.5", b"1e400", b"nan", b"Infinity",
    b"9" * 5_000, b"0x10", b"'; DROP TABLE users; --", b"%s%n", b"../../etc/passwd", b"null", b"{}",
)  # fmt: skip  # several values a line, because the list is long
OWN_VALUES: dict[bytes, tuple[bytes, ...]] = {
    b"Accept": (
        b"application/openmetrics-text;version=9" * 99, b"text/plain;q=" + b"9" * 5_000, b"*/*;q=nan",
    ),
    b"Accept-Encoding": (
        b"gzip;q=0, identity;q=0", b"identity;q=0, gzip", b"*;q=0", b"gzip;q=" + b"9" * 5_000, b"gzip;q=-inf",
        b"identity;q=0," * 4_000, b"gzip;q=0.0000001, *;q=0",
    ),
    b"Host": (
        b"a@127.0.0.1", b"127.0.0.1#", b"[::1", b"[zz]", b"127.0.0.1:99999", b"127.0.0.1:-1", b"0x7f.1",
        b"127.1", b"evil.example", b"localhost.", "ⓛocalhost".encode(),
    ),
    b"Origin": (
        b"http://[", b"http://evil.example", b"file://", b"http://127.0.0.1:99999", b"chrome-extension://a",
    ),
    b"Authorization": (
        b"Basic", b"Basic ", b"Basic ====", b"Basic YQ==", b"Basic /////w==", b"Bearer a",
        b"Digest " + b"a," * 999,
        *(
            b"Basic " + base64.b64encode(pair)
            for pair in (b":", b"a:\x00", b"a:" + b"b" * 40_000, b"\x00:\x00", b"a")
        ),
    ),
    b"Cookie": (
        rb'_streamlit_user="\777"', rb'_streamlit_user="\303\251"', b"_streamlit_user=2|1:0|",
        b"_streamlit_user=\xff",
        b"_streamlit_user=2|1:0|10:99999999999999999999|15:_streamlit_user|4:e30=|" + b"0" * 64,
        b"_streamlit_user_0=a; _streamlit_user_1=b", b"_streamlit_user_count=" + b"9" * 5_000,
        b"_streamlit_user_count=100000000; _streamlit_user_0=a", b"_streamlit_xsrf=2|zz|zz|99", b"$Version=1",
    ),
    b"Range": (
        b"bytes=0-0", b"bytes=-1", b"bytes=-0", b"bytes=5-1", b"bytes=a-b", b"bytes=", b"items=0-1",
        b"bytes=0-",
        b"bytes=" + b"9" * 4_000 + b"-", b"bytes=" + b"0-0," * 12_000, b"bytes=" + b"-1," * 15_000,
        b"bytes=1-0-2",
    ),
    b"If-None-Match": (b'W/"', b'"a",' * 9_000, b'W/"a", *'),
    b"If-Modified-Since": (
        b"Thu, 01 Jan 1970 00:00:00 GMT", b"Thu, 32 Foo 99999 99:99:99 +9999", b"Mon, 1 Jan 0000 0:0:0 -0000",
        b"1 Jan " + b"9" * 4_000 + b" 00:00:00", b", , , ,", b"Thu,", b"Thu, 1-Jan-1970 ::",
        b"2013-03-01T00:00:00Z",
    ),
    b"If-Range": (b'W/"a"', b"Thu, 32 Foo 99999 99:99:99 +9999"),
    b"X-Forwarded-For": (
        b"192.0.2.1, ,", b"[::1]:5", b"for=a;by=b", b"192.0.2.1," * 6_000, b"fe80::1%eth0", b"1.2.3",
    ),
    b"X-Forwarded-Proto": (b"https", b"wss", b"javascript", b"https, http"),
    b"X-Forwarded-Host": (b"evil.example", b"a@b", b"[", b"a, b"),
    b"X-Prometheus-Scrape-Timeout-Seconds": (b"0.5", b"1e-9", b"-inf"),
    b"Content-Type": (b"multipart/form-data", b"application/json; charset=utf-99"),
}  # fmt: skip  # several values a line, because the list is long
# These headers define where a request ends or which protocol follows, so the server may read the next request
# as part of this one.
FRAMING: dict[bytes, tuple[bytes, ...]] = {
    b"Content-Length": (b"1,1", b"5, 5", b"00", b"99999999999999999999999", b"18446744073709551616"),
    b"Transfer-Encoding": (b"chunked", b"identity", b"gzip, chunked", b"chunked, chunked", b"Chunked\x0b"),
    b"Connection": (b"close", b"keep-alive", b"Upgrade", b"close, keep-alive"),
    b"Upgrade": (b"websocket", b"h2c", b"websocket, h2c"),
    b"Expect": (b"100-continue", b"200-ok"),
}  # fmt: skip  # several values a line, because the list is long
USERS = {"monitor": bcrypt.hashpw(b"password", bcrypt.gensalt(4))}
AUTHORIZATION = b"Basic " + base64.b64encode(b"monitor:password")
SOCKET_TIMEOUT_SECONDS = 20
"""Timeout of a socket; a response normally takes milliseconds."""


class Server(NamedTuple):
    """A running server: its port, the paths to request, the header that authenticates, and its log file."""

    port: int
    paths: tuple[bytes, ...]
    credentials: tuple[bytes, bytes]
    log: Path

    def connect(self) -> socket.socket:
        """Return a new connection to the server."""
        return socket.create_connection((LOOPBACK, self.port), timeout=stretch(SOCKET_TIMEOUT_SECONDS))

    def write_request(self, path: bytes, *headers: tuple[bytes, bytes]) -> bytes:
        """Return a GET request with these headers, which may replace the usual Host and credentials."""
        usual = ((b"Host", f"{LOOPBACK}:{self.port}".encode()), self.credentials)
        given = {name.lower() for name, _ in headers}
        lines = [*(pair for pair in usual if pair[0].lower() not in given), *headers]
        return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, b"".join(b"%b: %b\r\n" % pair for pair in lines))

    def send(self, raw: socket.socket, request: bytes) -> HTTPResponse | None:
        """Send a request and return the response with its body, or None if the connection ends."""
        try:
            raw.sendall(request)
            answer = HTTPResponse(raw)
            answer.begin()
            answer.body = answer.read()  # type: ignore[attr-defined]  # an attribute of our own
        except (ConnectionError, HTTPException):
            return None
        return answer


@pytest.fixture(scope="module")
def game_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """Yield the URL of a database with a small game, which both servers use."""
    with created_database(postgres_server, template=template_database) as url:
        with open_service(Settings(database_url=url, enable_redis_cache=False)) as service:  # type: ignore[arg-type]  # a text
            play_game(service)
        yield url


@pytest.fixture(scope="module")
def exporter(game_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield an exporter that requires a password."""
    log = tmp_path_factory.mktemp("exporter") / "log"
    handler = logging.FileHandler(log)
    logging.getLogger().addHandler(handler)
    settings = Settings(database_url=game_url, enable_redis_cache=False)  # type: ignore[arg-type]  # a text
    paths = (b"/livez", b"/metrics", b"/api/health/database", b"/readyz", b"/", b"/nothing")
    with open_service(settings) as service, served(build_app(service, users=USERS)) as port:
        yield Server(port, paths, (b"Authorization", AUTHORIZATION), log)
    logging.getLogger().removeHandler(handler)
    handler.close()


@pytest.fixture(scope="module")
def dashboard(game_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a dashboard behind a proxy; `credentials` is the cookie of a signed-in user."""
    port = find_free_port()
    origin = f"http://{LOOPBACK}:{port}"
    claims = {"is_logged_in": True, "sub": "1", "origin": origin, "iat": time.time()}
    settings = {
        "DATABASE_URL": game_url,
        "ENABLE_REDIS_CACHE": "false",
        "OIDC_CLIENT_ID": "echo-markets",
        "OIDC_CLIENT_SECRET": "nobody signs in here",
        "OIDC_METADATA_URL": f"http://{LOOPBACK}:1/openid",
        "OIDC_REDIRECT_URI": f"{origin}/oauth2callback",
        "OIDC_COOKIE_SECRET": COOKIE_SECRET,
        "DASHBOARD_BEHIND": "proxy",
    }
    unlimited = {name.upper(): "0" for name in Settings.model_fields if name.startswith("rate_limit_")}
    paths = (
        b"/livez", b"/", b"/download/leaderboard.csv?category=daily_returns&day=2013-03-01",
        b"/download/stuck-quests.csv", b"/shell.js", b"/static/nothing.js", b"/market", b"/_stcore/health",
        b"/_stcore/host-config", b"/nothing",
    )  # fmt: skip  # several values a line, because the list is long
    with run_dashboard(tmp_path_factory.mktemp("headers"), port=port, **settings, **unlimited) as started:
        cookie = sign_cookie(claims)["cookie"].encode()
        yield Server(port, paths, (b"Cookie", cookie), started.log)


@pytest.fixture(params=["exporter", "dashboard"])
def server(request: pytest.FixtureRequest) -> Server:
    """Return the exporter or the dashboard."""
    found: Server = request.getfixturevalue(request.param)
    return found


def find_fault(server: Server, raw: socket.socket, path: bytes, *headers: tuple[bytes, bytes]) -> str | None:
    """Return the fault of the response to these headers (no response, or its status), or None."""
    try:
        answer = server.send(raw, server.write_request(path, *headers))
    except TimeoutError:
        return "no answer"
    return None if answer is None or 200 <= answer.status < 500 else f"{answer.status}"


def check_served(server: Server) -> None:
    """Assert that the server serves a new client and has logged no traceback."""
    with closing(server.connect()) as raw:
        answer = server.send(raw, server.write_request(b"/livez"))
        assert answer is not None
        assert answer.status == 200
    assert "Traceback" not in server.log.read_text(errors="replace")


@pytest.mark.parametrize("name", OWN_VALUES)
def test_hostile_headers_break_no_request(server: Server, name: bytes) -> None:
    """A header with a hostile value, sent once or twice, breaks neither its request nor the next one."""
    faults, raw, place = [], server.connect(), count()
    for value in (*VALUES, *OWN_VALUES[name]):
        for times in (1, 2):
            path = server.paths[next(place) % len(server.paths)]
            fault = find_fault(server, raw, path, *[(name, value)] * times)
            following = None if fault else server.send(raw, server.write_request(b"/livez"))
            if following is None:
                raw.close()
                raw = server.connect()
            elif following.status != 200:
                fault = f"{following.status} to the next request"
            if fault:
                faults.append((path, value[:40], times, fault))
    raw.close()
    assert not faults
    check_served(server)


@pytest.mark.parametrize("name", FRAMING)
def test_hostile_framing_headers_do_not_break_the_server(server: Server, name: bytes) -> None:
    """A hostile value in a framing header (such as Content-Length) does not break the server."""
    faults = []
    for place, value in enumerate((*VALUES, *FRAMING[name])):
        path = server.paths[place % len(server.paths)]
        with closing(server.connect()) as raw:
            fault = find_fault(server, raw, path, (name, value))
        if fault:
            faults.append((path, value[:40], fault))
    assert not faults
    check_served(server)


def test_responses_are_compressed_if_identity_is_refused(server: Server) -> None:
    """If Accept-Encoding refuses `identity`, every response is gzip, even for a range request."""
    headers = ((b"Accept-Encoding", b"identity;q=0, gzip"), (b"Range", b"bytes=0-1"))
    for path in server.paths:
        with closing(server.connect()) as raw, closing(server.connect()) as other:
            answer = server.send(raw, server.write_request(path, *headers))
            plain = server.send(other, server.write_request(path))
        assert answer is not None
        assert plain is not None
        assert answer.status == plain.status
        assert answer.headers["Content-Encoding"] == "gzip"
        if path not in {b"/metrics", b"/api/health/database"}:
            assert gzip.decompress(answer.body) == plain.body  # type: ignore[attr-defined]  # set by `send`
