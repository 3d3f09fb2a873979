"""Ends a sign-in in all processes after a sign-out.

Deleting the cookie is not enough: a copy of it can exist, or the browser can be offline. The audit log has an
event for each sign-out with the time of its sign-in, and every process reads this log, also after a restart.
A sign-out ends this sign-in and all earlier sign-ins of the same person. All sign-in times come from the
provider, so times of different clocks are never compared.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from core.records import AuditEvent
from dashboard.server.access import Visitor

logger = logging.getLogger(__name__)

READ_SECONDS = 2.0
"""Time between two reads of the audit log. Another process can accept an ended sign-in for this long."""

COOKIE_LIFE = timedelta(days=31)
"""How far back the first read of the audit log goes. Streamlit's sign-in cookie is valid for 30 days."""

OVERLAP = timedelta(minutes=1)
"""How far two reads of the audit log overlap in time: an event can become visible after a newer event."""

PAGE = 100
_PREFIX = "signed in at "
_UNKNOWN = datetime.fromtimestamp(0, UTC)
"""The time of all sign-ins for which the provider sends no time.

These sign-ins cannot be distinguished, so none of them is ended here.
"""


def describe_sign_in(issued_at: datetime) -> str:
    """Return the text for the column `detail` of a sign-out event: it contains the time of the sign-in."""
    return f"{_PREFIX}{issued_at.isoformat()}"


class SignOuts:
    """The ended sign-ins that this process knows. Thread safe."""

    def __init__(self) -> None:
        self._ended: dict[str, datetime] = {}
        self._read_until: datetime | None = None

    def end(self, actor: str, issued_at: datetime) -> None:
        """End the sign-in that was issued to a person at `issued_at`, and all earlier ones."""
        if issued_at > self._ended.get(actor, _UNKNOWN):
            self._ended[actor] = issued_at

    def has_ended(self, actor: str, issued_at: datetime) -> bool:
        """Return whether the sign-in that was issued to a person at `issued_at` has ended."""
        ended_at = self._ended.get(actor)
        return ended_at is not None and _UNKNOWN < issued_at <= ended_at

    def refresh(self, service: EnhancedDatabaseService) -> None:
        """Read the sign-outs of other processes from the audit log.

        Raises the errors of the service. The next call then reads the same events again.
        """

        def read(after: AuditEvent | None) -> Sequence[AuditEvent]:
            return service.list_audit_events(limit=PAGE, after=after)

        self.add_events(read, now=datetime.now(UTC))

    def add_events(self, read: Callable[[AuditEvent | None], Sequence[AuditEvent]], *, now: datetime) -> None:
        """Add the new sign-outs of the audit log.

        `read` returns a page of events, newest first: those older than its argument, or the newest ones for
        None.
        """
        oldest = now - COOKIE_LIFE if self._read_until is None else self._read_until - OVERLAP
        newest, last = oldest, None
        while events := read(last):
            for event in events:
                newest = max(newest, event.created_at)
                if event.action == "sign_out" and event.outcome == "done":
                    self._add_event(event)
            last = events[-1]
            if last.created_at < oldest:
                break
        self._read_until = newest

    def _add_event(self, event: AuditEvent) -> None:
        detail = event.detail or ""
        if detail.startswith(_PREFIX):
            try:
                self.end(event.actor, datetime.fromisoformat(detail.removeprefix(_PREFIX)))
            except ValueError:
                logger.warning("the audit log has a sign-out of no known form: %s", detail)


def has_signed_out(visitor: Visitor, sign_outs: SignOuts) -> bool:
    """Return whether the sign-in of a visitor has ended. False if no sign-in is configured."""
    return visitor.issued_at is not None and sign_outs.has_ended(visitor.actor, visitor.issued_at)


async def watch_sign_outs(sign_outs: SignOuts, service: EnhancedDatabaseService) -> None:
    """Read the sign-outs of other processes every `READ_SECONDS`, until cancelled.

    If the audit log cannot be read, the known sign-outs stay.
    """
    while True:
        try:
            await asyncio.to_thread(sign_outs.refresh, service)
        except EchoMarketsError as error:
            # level debug is enough, because the health line shows the outage
            logger.debug("sign-outs of other processes are not known: %s", error)
        await asyncio.sleep(READ_SECONDS)
