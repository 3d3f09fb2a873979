"""Sends an HTTP GET with a deadline, to read from the exporter and from Prometheus.

Owns the deadline and the size limit. Follows no redirect, uses no proxy, and keeps no connection open. A user
name and a password in the URL are sent as basic authentication. They never appear in an error.
"""

import base64
import http.client
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from core.errors import EchoMarketsError

# Largest body of a response. The response of an exporter with many processes has a few hundred kilobytes.
BODY_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class FetchFailed(EchoMarketsError):
    """The GET got no complete answer. The message says why, and does not contain the URL."""


class Answer(msgspec.Struct, frozen=True):
    """The answer of a server, with any status code. Header names are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def fetch(
    url: str,
    *,
    timeout_seconds: float,
    headers: Mapping[str, str] = NO_HEADERS,
    authority: Path | None = None,
) -> Answer:
    """Send a GET for a URL, and return the answer. Raises `FetchFailed`.

    Takes at most `timeout_seconds`, plus the duration of one read from the socket. `authority` is a PEM file
    with the CA certificate of an https server. Without it, the CAs of the system are trusted.
    """
    parts = urlsplit(url)
    deadline = time.monotonic() + timeout_seconds
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    connection = _connect(parts, timeout_seconds, authority)
    try:
        sent = {**headers, **_headers(parts.username, parts.password)}
        connection.request("GET", path, headers=sent)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, body=_read(response, deadline), headers=received)
    except TimeoutError as error:
        raise FetchFailed(f"no answer within {timeout_seconds:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise FetchFailed(f"TLS failed: certificate verify failed: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise FetchFailed(f"TLS failed: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchFailed(getattr(error, "strerror", None) or type(error).__name__) from error
    finally:
        connection.close()


def _connect(parts: SplitResult, seconds: float, authority: Path | None) -> http.client.HTTPConnection:
    # not urllib, which would use the proxy that the environment names
    host = parts.hostname or ""
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, parts.port, timeout=seconds)
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise FetchFailed(f"{authority} cannot be used: {error.strerror or error}") from error
    return http.client.HTTPSConnection(host, parts.port, timeout=seconds, context=context)


def _headers(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK_BYTES):
        parts.append(chunk)
        size += len(chunk)
        if size > BODY_BYTES:
            raise http.client.HTTPException("the answer is too long")
        if time.monotonic() > deadline:
            # each read has its own socket timeout, which a server that sends single bytes never exceeds
            raise TimeoutError
    return b"".join(parts)
