"""Tests of the exporter as an HTTP server: formats, compression, methods, limits and slow clients."""

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain_text
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from core import EnhancedDatabaseService
from core.web import client_deadlines
from core.web.rate_limits import RateLimits
from exporter.server import build_app
from tests.exporter_server import LOCAL_URL, served
from tests.patience import stretch

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN_TEXT = "text/plain; version=0.0.4; charset=utf-8"
# The Accept header of Prometheus 3.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PATHS = ["/", "/metrics", "/api/health/database", "/livez", "/readyz"]


@pytest.fixture
def client(service: EnhancedDatabaseService) -> Iterator[TestClient]:
    """Yield a client of the exporter of a healthy stack."""
    with TestClient(build_app(service), base_url=LOCAL_URL) as client:
        yield client


@pytest.fixture
def port(service: EnhancedDatabaseService) -> Iterator[int]:
    """Yield the port of an exporter that listens on a socket."""
    with served(build_app(service)) as port:
        yield port


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (PROMETHEUS, OPEN_METRICS),
        ("application/openmetrics-text", OPEN_METRICS),
        ('application/openmetrics-text; version="1.0.0"', OPEN_METRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.5", PLAIN_TEXT),
        ("application/openmetrics-text;version=2.0.0", PLAIN_TEXT),
        ("application/openmetrics-text;q=0", PLAIN_TEXT),
        ("application/openmetrics-text;version=nonsense;q=x,,;;=", PLAIN_TEXT),
        ("text/html,*/*;q=0.8", PLAIN_TEXT),
        ("", PLAIN_TEXT),
    ],
)
def test_metrics_have_the_preferred_format(client: TestClient, accept: str, content_type: str) -> None:
    """The format is the one that the Accept header prefers, and its parser reads the text."""
    response = client.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    parse = parse_open_metrics if content_type == OPEN_METRICS else parse_plain_text
    assert "echo_health_status" in {family.name for family in parse(response.text)}
    assert response.text.endswith("# EOF\n") == (content_type == OPEN_METRICS)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip, deflate", "gzip"),
        ("deflate, GZIP;q=1.0, *;q=0.5", "gzip"),
        ("*", "gzip"),
        ("identity", None),
        ("br", None),
        ("", None),
        ("gzip;q=0", None),
        ("gzip;q=0, *", None),
        ("gzip;q=0.5, identity", None),
    ],
)
def test_metrics_are_compressed_if_the_client_accepts_gzip(
    port: int, accept: str, encoding: str | None
) -> None:
    """The response is compressed if Accept-Encoding allows gzip; `Vary` names the headers it depends on."""
    with httpx2.stream(
        "GET", f"http://127.0.0.1:{port}/metrics", headers={"Accept-Encoding": accept}
    ) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers.get("content-encoding") == encoding
    assert {"accept", "accept-encoding"} >= {
        each.strip().lower() for each in response.headers["vary"].split(",")
    }
    text = gzip.decompress(raw) if encoding else raw
    assert b"echo_health_status" in text
    assert len(raw) < len(text) / 4 if encoding else raw == text


def test_the_index_links_every_path(client: TestClient) -> None:
    """The page at `/` links every path, and each link is answered with 200."""
    page = client.get("/").text
    for path in PATHS[1:]:
        assert f'href="{path}"' in page
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_any_other_method_is_405(client: TestClient, path: str) -> None:
    """POST, PUT, DELETE and OPTIONS are answered with 405 and the allowed methods. HEAD is allowed."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        response = client.request(method, path)
        assert response.status_code == 405
        assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert client.head(path).status_code == 200


def test_requests_over_the_rate_limit_are_429(service: EnhancedDatabaseService) -> None:
    """A request over the limit is answered with 429 and headers with the limit and the seconds to wait.

    Probes are not limited.
    """
    app = build_app(service, limits=RateLimits(), requests_per_minute=2)
    with TestClient(app, base_url=LOCAL_URL) as client:
        answers = [client.get("/api/health/database") for _ in range(3)]
        assert [each.status_code for each in answers] == [200, 200, 429]
        for answer, remaining in zip(answers, (1, 0, 0), strict=True):
            assert answer.headers["ratelimit-policy"] == '"exporter";q=2;w=60'
            assert answer.headers["ratelimit"].startswith(f'"exporter";r={remaining};t=')
        assert 1 <= int(answers[2].headers["retry-after"]) <= 60
        assert "retry-after" not in answers[1].headers
        for path in ("/livez", "/readyz"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:9100", "evil@127.0.0.1"])
def test_a_foreign_host_header_is_refused(client: TestClient, host: str) -> None:
    """A foreign Host header is refused, so that a DNS rebinding attack cannot read the metrics.

    Probes are answered.
    """
    assert client.get("/metrics", headers={"Host": host}).status_code == 421
    assert client.get("/livez", headers={"Host": host}).status_code == 200


def test_a_request_with_two_lengths_is_answered_once(port: int) -> None:
    """A request with two lengths is answered with 400, and the connection is closed.

    Otherwise the rest could be read as a second request.
    """
    with connect(port) as raw:
        raw.sendall(
            b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        answer = b""
        while part := raw.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


# -- slow clients ---------------------------------------------------------------------


def connect(port: int) -> socket.socket:
    """Return a TCP connection to the exporter."""
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def measure_seconds_until_closed(raw: socket.socket) -> float:
    """Return the seconds until the server closes the connection."""
    started = time.monotonic()
    try:
        while raw.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - started


def test_slow_clients_do_not_delay_others(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty clients that never finish their header do not delay a scrape, and are disconnected."""
    monkeypatch.setattr(client_deadlines, "HEADER_SECONDS", 4.0)
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(connect(port)) for _ in range(50)]
        for number, raw in enumerate(slow):
            # the other clients send no byte
            if number % 5:
                raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert httpx2.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        assert httpx2.get(f"http://127.0.0.1:{port}/livez").status_code == 200
        for raw in slow:
            # the slow client is still connected, so the requests above did not wait for its deadline
            raw.setblocking(False)
            with pytest.raises(BlockingIOError):
                raw.recv(1)
            raw.settimeout(10)
        for raw in slow:
            assert measure_seconds_until_closed(raw) < stretch(9)


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Drip: ",
        # a second request on the connection, and a request with a body that its path does not read
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nX-Drip: ",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
    ],
)
def test_single_bytes_do_not_extend_the_deadline(
    port: int, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    """A client that sends a byte every 0.1 s is disconnected at the deadline of the whole request."""
    monkeypatch.setattr(client_deadlines, "HEADER_SECONDS", 1.0)
    with connect(port) as raw:
        raw.sendall(beginning)
        raw.settimeout(0.1)
        started = time.monotonic()
        while time.monotonic() - started < stretch(8):
            try:
                raw.sendall(b"a")
                if not raw.recv(65536):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() - started < stretch(6)


def test_a_response_that_is_not_read_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the client does not read, sending the response ends at its deadline and frees its memory."""
    monkeypatch.setattr(client_deadlines, "RESPONSE_SECONDS", 1.0)
    ended = threading.Event()

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        # more than the socket buffers hold
        await send({"type": "http.response.body", "body": b"a" * 50_000_000})
        ended.set()

    with served(answer, lifespan="off") as port, connect(port) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended.wait(20)


def test_large_headers_are_answered(port: int) -> None:
    """A header of 8 KB is answered and one of 1 MB is refused. The exporter still answers afterwards."""
    with connect(port) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 8192 + b"\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
    with connect(port) as raw:
        try:
            raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 1_000_000)
            assert raw.recv(100).startswith(b"HTTP/1.1 4")
        except OSError:
            # the exporter refused the header while the client was still sending it
            pass
    assert httpx2.get(f"http://127.0.0.1:{port}/livez").status_code == 200


def test_bytes_that_are_no_http_are_refused(port: int) -> None:
    """A client that sends a TLS handshake or other bytes is disconnected."""
    for noise in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\r\nhello\r\n\r\n",
        b"\x00" * 100,
    ):
        with connect(port) as raw:
            raw.sendall(noise + b"\r\n\r\n")
            assert measure_seconds_until_closed(raw) < stretch(client_deadlines.HEADER_SECONDS + 3)
