"""Reads the health of the whole stack from its exporter.

Owns the line of overall health that `status` prints below the table of programs, and the check that the
exporter belongs to this stack. The exporter itself evaluates the health.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from core.errors import StackError
from core.http_client import Answer, FetchFailed, fetch
from core.settings import redact
from core.settings.stack_identity import HEADER, StackIdentity, build_identity, parse_identity
from core.stack.programs import find_address

# The longest wait for an answer of the exporter, whose own health checks take at most one second.
ANSWER_SECONDS = 5.0
HEALTHY = "healthy"


class StackHealth(NamedTuple):
    """The overall status, and the reasons for problems.

    The status is `unknown` if the exporter gives no valid answer or belongs to another stack.
    """

    status: str
    reasons: tuple[str, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether the status is healthy."""
        return self.status == HEALTHY

    def __str__(self) -> str:
        return f"{self.status}: {', '.join(self.reasons)}" if self.reasons else self.status


class _Pool(msgspec.Struct):
    status: str


class _Database(msgspec.Struct, rename="camel"):
    status: str
    migrations_pending: int | None
    connection_pool: _Pool
    reason: str | None = None


class _Redis(msgspec.Struct):
    status: str
    reason: str | None = None


class _Services(msgspec.Struct):
    database: _Database
    redis: _Redis


class _Document(msgspec.Struct):
    status: str
    services: _Services
    stack: str | None = None


def read_stack_health(environment: Mapping[str, str]) -> StackHealth:
    """Return the health that the exporter of the recorded stack reports. It is up to two seconds old."""
    url = redact(find_address("exporter", environment))
    try:
        answer = _fetch("/api/health/database", environment)
        document = msgspec.json.decode(answer.body, type=_Document)
    except (FetchFailed, msgspec.DecodeError):
        return StackHealth("unknown", ("the exporter gives no valid answer",))
    other = _find_other(document.stack or "", environment)
    if other is not None:
        return StackHealth("unknown", (f"the exporter at {url} belongs to another stack, {other}",))
    return StackHealth(document.status, tuple(_list_reasons(document.services)))


def refuse_other_stack(environment: Mapping[str, str]) -> None:
    """Raise `StackError` if the exporter at the recorded address belongs to another stack."""
    url = redact(find_address("exporter", environment))
    try:
        headers = _fetch("/livez", environment).headers
    except FetchFailed:
        return  # no exporter answers, so there is no identity to compare
    other = _find_other(headers.get(HEADER.lower(), ""), environment)
    if other is not None:
        raise StackError(
            f"the exporter at {url} belongs to another stack, {other}: this checkout's stack"
            f" {environment.get('STACK_NAME', '')} is not up; `make up` starts it, on other ports if need be"
        )


def _fetch(path: str, environment: Mapping[str, str]) -> Answer:
    url = f"{find_address('exporter', environment)}{path}"
    authority = Path(environment["EXPORTER_CA"]) if "EXPORTER_CA" in environment else None
    return fetch(url, timeout_seconds=ANSWER_SECONDS, authority=authority)


def _find_other(text: str, environment: Mapping[str, str]) -> StackIdentity | None:
    """Parse the identity that an exporter sends. Return None if it names the recorded stack or no stack."""
    answering = parse_identity(text)
    if answering is None:
        return None
    own = build_identity(environment.get("STACK_NAME"), environment.get("DATABASE_URL", ""))
    return None if answering.is_same(own) else answering


def _list_reasons(services: _Services) -> Iterator[str]:
    if services.database.status != HEALTHY:
        reason = services.database.reason
        yield f"database: {reason}" if reason else "the database does not answer"
    if services.redis.reason is not None:
        yield f"redis: {services.redis.reason}"
    if services.database.migrations_pending:
        yield f"migrations pending: {services.database.migrations_pending} (`make migrate` applies them)"
    if services.database.connection_pool.status != HEALTHY:
        yield "a pool has no free connection (`echo-markets health` names it)"
