"""What both web servers agree on about a request: its host, its encoding, and who the client is."""

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from core.web.encodings import ChosenEncoding, parse_accepted
from core.web.requests import KnownHosts, parse_host
from dashboard.server.proxy import ProxyHeaders


async def answer_client(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what the layers in front have left of the request."""
    names = b",".join(name for name, _ in scope["headers"]).decode()
    await PlainTextResponse(f"{scope['client'][0]} {scope['scheme']} {names}")(scope, receive, send)


def ask(app: Any, *headers: tuple[str, str], client: str = "10.0.0.1", path: str = "/") -> tuple[int, str]:
    """Send one request and return status and text."""
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
    # gzip is no text
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
def test_a_host_has_one_form(header: str, host: str | None) -> None:
    """A name or an address, with a port; other forms, which readers parse differently, are refused."""
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
def test_the_encoding_is_the_one_that_is_liked_best(header: str | None, chosen: str | None) -> None:
    """Quality 0 is a refusal, `*` stands for unnamed encodings, and identity is the last choice."""
    assert parse_accepted(header).choose() == chosen
    given = [] if header is None else [("accept-encoding", header)]
    status, _ = ask(ChosenEncoding(answer_client), *given)
    assert status == (406 if chosen is None else 200)


def test_two_headers_are_one_list() -> None:
    """The second header continues the first (RFC 9110, 5.3)."""
    headers = [("accept-encoding", "identity;q=0"), ("accept-encoding", "gzip;q=0")]
    assert ask(ChosenEncoding(answer_client), *headers)[0] == 406


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
def test_a_foreign_name_does_not_reach_the_exporter(host: str, *, is_open: bool, status: int) -> None:
    """A name that resolves to this machine is refused; probes are answered under any name."""
    app = KnownHosts(answer_client, names=["exporter"], is_open=is_open)
    assert ask(app, ("host", host))[0] == status
    assert ask(app, ("host", host), path="/livez")[0] == 200


NAME = "x-forwarded-for"
SPOOFED = (NAME, "192.0.2.66")


@pytest.mark.parametrize(
    ("client", "headers", "seen"),
    [
        ("10.0.0.9", [SPOOFED], "10.0.0.9 http "),
        ("10.0.0.9", [("x-forwarded-proto", "https"), ("x-forwarded-host", "a")], "10.0.0.9 http "),
        ("10.0.0.1", [(NAME, "192.0.2.66, 198.51.100.7")], f"198.51.100.7 http {NAME}"),
        ("10.0.0.1", [SPOOFED, (NAME, "198.51.100.7")], f"198.51.100.7 http {NAME},{NAME}"),
        # a proxy behind a proxy, both known
        ("10.0.0.1", [(NAME, "192.0.2.66, 198.51.100.7, 172.16.9.9")], f"198.51.100.7 http {NAME}"),
        ("10.0.0.1", [("x-forwarded-proto", "https")], "10.0.0.1 https x-forwarded-proto"),
    ],
)
def test_only_the_proxy_says_who_the_client_is(
    client: str, headers: list[tuple[str, str]], seen: str
) -> None:
    """The client is the rightmost entry that is no proxy; headers of other peers are removed."""
    app = ProxyHeaders(answer_client, proxies=("10.0.0.1", "172.16.0.0/12"))
    assert ask(app, *headers, client=client) == (200, seen)
