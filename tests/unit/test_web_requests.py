"""What the dashboard's and the exporter's server derive from a request: host, encoding and client."""

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from core.web.encodings import ChosenEncoding, parse_accepted
from core.web.requests import KnownHosts, parse_host
from dashboard.server.proxy import ProxyHeaders


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the client, the scheme and the header names of the request."""
    names = b",".join(name for name, _ in scope["headers"]).decode()
    await PlainTextResponse(f"{scope['client'][0]} {scope['scheme']} {names}")(scope, receive, send)


def send_request(
    app: Any, *headers: tuple[str, str], client: str = "10.0.0.1", path: str = "/"
) -> tuple[int, str]:
    """Send one request to an ASGI app; return the status and the text of the response."""
    scope = {
        "type": "http",
        "path": path,
        "method": "GET",
        "scheme": "http",
        "client": (client, 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(app(scope, receive, send))
    # `replace`, because a gzip body is not UTF-8
    return sent[0]["status"], sent[1]["body"].decode(errors="replace")


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("127.0.0.1:9100", "127.0.0.1"),
        ("LocalHost", "localhost"),
        ("[::1]:9100", "::1"),
        ("exporter:9100", "exporter"),
        ("", None),
        ("a@127.0.0.1", None),
        ("127.0.0.1#a", None),
        ("127.0.0.1/a", None),
        ("127.0.0.1:", None),
        ("127.0.0.1:1:2", None),
        ("127.0.0.1\n", None),
        ("%6cocalhost", None),
        ("ⓛocalhost", None),
    ],
)
def test_an_invalid_host_header_is_refused(header: str, host: str | None) -> None:
    """`parse_host` returns the name or address without its port, and None for an invalid Host header."""
    assert parse_host(header) == host


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP;Q=0.5", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip; q=0.0", "identity"),
        ("gzip;q=0.000, deflate", "identity"),
        ("gzip;q=0, *", "identity"),
        ("*", "gzip"),
        ("*;q=0.5, gzip;q=0.2", "identity"),
        ("gzip;q=0.5, identity", "identity"),
        ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("gzip;q=0.1, identity;q=0", "gzip"),
        ("*, identity;q=0", "gzip"),
        ("br", "identity"),
        ("not-gzip", "identity"),
        ("identity;q=0", None),
        ("*;q=0", None),
        ("br, *;q=0", None),
        ("gzip;q=0, identity;q=0", None),
        ("identity;q=0.5, *;q=0", "identity"),
        ("gzip;q=nan", "gzip"),
        ("gzip;q=-1", "identity"),
        (",;=;,", "identity"),
    ],
)
def test_the_accepted_encoding_is_chosen(header: str | None, chosen: str | None) -> None:
    """The encoding with the higher `q` is chosen, or gzip if both are equal; if both are 0: status 406."""
    assert parse_accepted(header).choose() == chosen
    given = [] if header is None else [("accept-encoding", header)]
    status, _ = send_request(ChosenEncoding(respond), *given)
    assert status == (406 if chosen is None else 200)


def test_two_headers_form_one_list() -> None:
    """Two Accept-Encoding headers form one list (RFC 9110, 5.3)."""
    headers = [("accept-encoding", "identity;q=0"), ("accept-encoding", "gzip;q=0")]
    assert send_request(ChosenEncoding(respond), *headers)[0] == 406


@pytest.mark.parametrize(
    ("host", "is_open", "status"),
    [
        ("127.0.0.1:9100", False, 200),
        ("10.1.2.3:9100", False, 200),
        ("[fd00::1]", False, 200),
        ("exporter:9100", False, 200),
        ("EXPORTER", False, 200),
        ("evil.example:9100", False, 421),
        ("evil.example:9100", True, 200),
        ("evil@127.0.0.1", False, 421),
        ("evil@127.0.0.1", True, 421),
        ("", False, 421),
    ],
)
def test_an_unknown_host_is_refused(host: str, *, is_open: bool, status: int) -> None:
    """A request with an unknown host name is refused with 421 (DNS rebinding); probes accept every name."""
    app = KnownHosts(respond, names=["exporter"], is_open=is_open)
    assert send_request(app, ("host", host))[0] == status
    assert send_request(app, ("host", host), path="/livez")[0] == 200


NAME = "x-forwarded-for"
SPOOFED = (NAME, "192.0.2.66")


@pytest.mark.parametrize(
    ("client", "headers", "seen"),
    [
        ("10.0.0.9", [SPOOFED], "10.0.0.9 http "),
        ("10.0.0.9", [("x-forwarded-proto", "https"), ("x-forwarded-host", "a")], "10.0.0.9 http "),
        ("10.0.0.1", [(NAME, "192.0.2.66, 198.51.100.7")], f"198.51.100.7 http {NAME}"),
        ("10.0.0.1", [SPOOFED, (NAME, "198.51.100.7")], f"198.51.100.7 http {NAME},{NAME}"),
        # two trusted proxies in a chain
        ("10.0.0.1", [(NAME, "192.0.2.66, 198.51.100.7, 172.16.9.9")], f"198.51.100.7 http {NAME}"),
        ("10.0.0.1", [("x-forwarded-proto", "https")], "10.0.0.1 https x-forwarded-proto"),
    ],
)
def test_only_a_trusted_proxy_names_the_client(
    client: str, headers: list[tuple[str, str]], seen: str
) -> None:
    """The client is the rightmost address that is no trusted proxy; other peers' headers are removed."""
    app = ProxyHeaders(respond, proxies=("10.0.0.1", "172.16.0.0/12"))
    assert send_request(app, *headers, client=client) == (200, seen)
