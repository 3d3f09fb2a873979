"""Which requests a web server refuses whoever sends them: foreign host names and unclear lengths.

Owns the form of the Host header and the check against DNS rebinding: a page of another site whose name its
owner made lead to this machine has the same origin as this server, but its own name in the Host header.
"""

import re
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset({"/livez", "/readyz"})
"""Answered under any host name, because an orchestrator uses its own; they reveal nothing else."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
"""RFC 9110, 7.2 without what no browser sends: a user, a path, percent signs."""


def parse_host(header: str) -> str | None:
    """Return the name or address in a Host header, in lower case; None for one of another form."""
    found = _HOST.fullmatch(header)
    return found[1].strip("[]").lower() if found else None


def is_local_host(host: str) -> bool:
    """Return whether a host name or address is the loopback interface of this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(host: str) -> bool:
    """Return whether a host is written as an address, which no name server can make lead elsewhere."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def find_client(scope: Scope) -> str:
    """Return the name under which a client is counted: its address, or its network for IPv6.

    One machine has 2^64 addresses of IPv6, and could use another one for each request.
    """
    host = str((scope.get("client") or ("unknown",))[0])
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address.packed, 64), strict=False))
    return host


def refuse_unclear_length(headers: Headers) -> PlainTextResponse | None:
    """Return the refusal of a request with two lengths, else None.

    A proxy may use one and this server the other: what is a body for one is a second request for the other
    (RFC 9112, 6.3 and 11.2). So the connection is closed as well.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        return PlainTextResponse(
            "Content-Length and Transfer-Encoding exclude each other\n",
            400,
            headers={"Connection": "close"},
        )
    return None


class KnownHosts:
    """An ASGI application in front of another one: addresses, this machine's names and `names` are known."""

    def __init__(self, app: ASGIApp, *, names: Collection[str], is_open: bool) -> None:
        """With `is_open` any name will do: a foreign page does not have the password that is asked for."""
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        app = self._app
        if scope["type"] == "http":
            app = self._find_refusal(scope) or app
        await app(scope, receive, send)

    def _find_refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if scope["path"] not in PROBES and not self._is_known(headers.get("host", "")):
            return PlainTextResponse("unknown host name; EXPORTER_NAMES lists those that are known\n", 421)
        return refuse_unclear_length(headers)

    def _is_known(self, header: str) -> bool:
        host = parse_host(header)
        if host is None:
            return False
        return self._is_open or is_local_host(host) or is_address(host) or host in self._names
