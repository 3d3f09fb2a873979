"""Writes sign-ins, sign-outs and refused actions to the audit log.

An event that cannot be written is logged and counted, and the visitor sees no error.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError
from core.records import AuditAction, AuditOutcome

logger = logging.getLogger(__name__)

TARGET = "dashboard"
MAX_AGE_SECONDS = 300.0
"""Age up to which a sign-in counts as new. The first page after a sign-in records it in the audit log."""

MAX_REMEMBERED = 10_000
"""Maximum number of recorded sign-ins in memory. They are remembered, so that each is recorded only once."""


class SignIns:
    """The sign-ins that this process has recorded in the audit log. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: OrderedDict[tuple[str, float], None] = OrderedDict()

    def is_new(self, actor: str, claims: Mapping[str, Any], now: datetime) -> bool:
        """Return whether a sign-in with these claims is recent, and was not passed to this method before."""
        issued = claims.get("iat")
        # check the type, because a provider may send any value as the time
        if not isinstance(issued, int | float) or abs(now.timestamp() - issued) > MAX_AGE_SECONDS:
            return False
        with self._lock:
            if (actor, issued) in self._recorded:
                return False
            self._recorded[actor, issued] = None
            while len(self._recorded) > MAX_REMEMBERED:
                self._recorded.popitem(last=False)
        return True


def record(
    service: EnhancedDatabaseService,
    *,
    actor: str,
    action: AuditAction,
    target: str = TARGET,
    outcome: AuditOutcome = "done",
    detail: str | None = None,
) -> None:
    """Write a finished action to the audit log. A database error is logged and not raised."""
    try:
        service.record_audit_event(actor=actor, action=action, target=target, outcome=outcome, detail=detail)
    except EchoMarketsError as error:
        logger.warning("%s of %r (%s) could not be recorded: %s", action, actor, outcome, error)
