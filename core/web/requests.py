"""Refuses requests with an unknown host name, or with both Content-Length and Transfer-Encoding.

Owns the check against DNS rebinding. In this attack the owner of another site lets the site's name resolve to
this machine. A browser then takes this server for the other site, and lets the site's page read the
responses. But the Host header of these requests has the name of the other site, so they are refused.
"""

import re
from collections.abc import Collection
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset({"/livez", "/readyz"})
"""Paths that are answered under any host name, because an orchestrator can send a name that is not known.

The answers contain no data.
"""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
"""The Host header of RFC 9110, 7.2, but without a user, a path and percent signs: browsers send none."""


def parse_host(header: str) -> str | None:
    """Return the name or address in a Host header in lower case, or None if the header has another form."""
    found = _HOST.fullmatch(header)
    return found[1].strip("[]").lower() if found else None


def is_local_host(host: str) -> bool:
    """Return whether a host is `localhost` or an address of the loopback interface."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(host: str) -> bool:
    """Return whether a host is an IP address. A name server cannot redirect an address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def find_client(scope: Scope) -> str:
    """Return the name under which a client is counted: its IPv4 address or its IPv6 network.

    The network is used because one machine can have 2^64 IPv6 addresses, and could send each request from a
    different address.
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
    """Return the refusal of a request with both Content-Length and Transfer-Encoding. Else return None.

    A proxy may use one length, and this server the other one. Then they do not agree where the request ends,
    and a part of its body may become a second request (RFC 9112, 6.3 and 11.2). So the connection is closed
    too.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        return PlainTextResponse(
            "Content-Length and Transfer-Encoding exclude each other\n",
            400,
            headers={"Connection": "close"},
        )
    return None


class KnownHosts:
    """ASGI middleware that refuses unknown host names. IP addresses, localhost and `names` are known."""

    def __init__(self, app: ASGIApp, *, names: Collection[str], is_open: bool) -> None:
        """Accept every host name if `is_open` is true.

        Use `is_open` for a server that asks for a password: the page of another site does not know it.
        """
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
