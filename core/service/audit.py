"""Audit: what operators do is written down before it is done, and its outcome afterwards."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast, get_args

from core.errors import EchoMarketsError, InvalidInput
from core.metrics import Metrics
from core.queries import audit as queries
from core.records import AuditAction, AuditEvent, AuditOutcome
from core.service.base import ServiceBase, new_id
from core.service.inputs import check_choice, check_limit, check_text
from core.service.paging import check_after, find_place, stream_pages

logger = logging.getLogger(__name__)

MAX_ACTOR = 320  # the longest e-mail address
MAX_TARGET = 200
MAX_DETAIL = 500


class Audit(ServiceBase):
    """The audit area of the service."""

    metrics: Metrics

    @contextmanager
    def audited(self, *, actor: str, action: AuditAction, target: str) -> Iterator[AuditEvent]:
        """Write down that `actor` does `action` to `target`, run the block, write its outcome.

        When it cannot be written down, the block is not run: raises `InvalidInput` or what the
        database raised. An outcome that cannot be written is logged and counted, because the
        action is done by then; its row says `started` for ever. Errors of the block go on.
        Not inside `transaction()`, where a rollback would undo what was written down.
        """
        event = self._record(actor, action, target)
        try:
            yield event
        except BaseException as error:
            self._finish(event, outcome="failed", detail=f"{type(error).__name__}: {error}"[:MAX_DETAIL])
            raise
        self._finish(event, outcome="done", detail=None)

    def list_audit_events(
        self, *, limit: int = 50, after: AuditEvent | None = None
    ) -> tuple[AuditEvent, ...]:
        """Return the most recent actions of operators, newest first, as of now.

        `after` is the last action of the page before. Raises `InvalidInput`.
        """
        place, count = find_place(check_after(after, AuditEvent)), check_limit(limit)
        return self._read("list_audit_events", queries.list_recent, count, after=place)

    def stream_audit_events(self, *, after: AuditEvent | None = None) -> Iterator[AuditEvent]:
        """Yield every action of operators, newest first; 2,000 are held at a time.

        Each 2,000 are one statement, as of then, and no connection is held between them. `after`
        continues behind an action. Raises `InvalidInput`.
        """

        def load(last: AuditEvent | None, limit: int) -> tuple[AuditEvent, ...]:
            return self._read("stream_audit_events", queries.list_recent, limit, after=find_place(last))

        return stream_pages(load, check_after(after, AuditEvent))

    def _record(self, actor: str, action: AuditAction, target: str) -> AuditEvent:
        checked = _check_action(action)
        who = check_text(actor, "actor", most=MAX_ACTOR)
        what = check_text(target, "target", most=MAX_TARGET)
        if self._database.in_transaction():
            raise InvalidInput(f"{checked} is audited inside a transaction; call it outside")
        try:
            with self._changing("record_audit_event") as (database, _):
                event = queries.insert_event(
                    database, new_id(), actor=who, action=checked, target=what, now=self._clock()
                )
        except EchoMarketsError:
            self.metrics.count_audit_write_failure(checked)
            raise
        self.metrics.count_audit_event(checked)
        logger.info("operator %s does %s: %s", who, checked, what)
        return event

    def _finish(self, event: AuditEvent, *, outcome: AuditOutcome, detail: str | None) -> None:
        try:
            with self._changing("finish_audit_event") as (database, _):
                queries.finish_event(database, event.id, outcome=outcome, detail=detail, now=self._clock())
        except EchoMarketsError:
            self.metrics.count_audit_write_failure(event.action)
            logger.exception("%s of %s %s, which could not be written", event.action, event.actor, outcome)


def _check_action(action: Any) -> AuditAction:
    return cast("AuditAction", check_choice(action, "action", get_args(AuditAction)))
