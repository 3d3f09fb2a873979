"""Checks that refuse a request with an unknown host name, or with two lengths.

Owns the form of the Host header and the check against DNS rebinding. In that attack the owner of another site
points the site's name to this machine, so that the site's page has the same origin as this server. The Host
header of its requests still has the other site's name.
"""

import re
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset({"/livez", "/readyz"})
"""Paths that are answered under any host name, because orchestrators use other names; they show no data."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
"""RFC 9110, 7.2, without the parts that no browser sends: a user, a path, percent signs."""


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
    """Return whether a host is an address, which no name server can point elsewhere."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def find_client(scope: Scope) -> str:
    """Return the name under which a client is counted: its IPv4 address or its IPv6 network.

    One machine has 2^64 IPv6 addresses, and could use another one for each request.
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
    """Return the answer that refuses a request with two lengths; None for any other request.

    A proxy may use one length and this server the other: then one sees a body where the other sees a second
    request (RFC 9112, 6.3 and 11.2). So the connection is closed as well.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        return PlainTextResponse(
            "Content-Length and Transfer-Encoding exclude each other\n",
            400,
            headers={"Connection": "close"},
        )
    return None


class KnownHosts:
    """ASGI middleware that refuses unknown hosts; known are IP addresses, localhost and `names`."""

    def __init__(self, app: ASGIApp, *, names: Collection[str], is_open: bool) -> None:
        """With `is_open` accept every name: for a server with a password, which pages of other sites lack."""
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
