"""The audit log: which person did what, and whether an event of the log was changed afterwards.

`audited` and `record_audit_event` write an event for an action of a person, such as a sign-in. Triggers of
the database write an event for each profile, portfolio, quest or score that changes inside `acting_as`. A
seal has hashes of events, with which `verify_audit_log` detects changes. No call changes an event;
`maintain_audit_log` deletes old months.
"""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast, get_args
from uuid import UUID

import msgspec

from core.database import identity
from core.database.identity import Identity
from core.errors import EchoMarketsError, InvalidInput
from core.queries import audit, audit_seals
from core.records import (
    AuditAction,
    AuditBreak,
    AuditEvent,
    AuditOutcome,
    AuditSealing,
    AuditVerification,
    PartitionReport,
)
from core.service.argument_checks import (
    check_after,
    check_choice,
    check_id,
    check_int,
    check_limit,
    check_text,
    find_place,
)
from core.service.audit_chain import Anchor, ChainVerifier, parse_anchor
from core.service.paging import stream_pages
from core.service.partitions import MAX_MONTHS_AHEAD
from core.service.writes import ServiceBase, new_id

logger = logging.getLogger(__name__)

MAX_ACTOR = 320  # length of the longest e-mail address
MAX_TARGET = 200
MAX_DETAIL = 500
MAX_REQUEST_ID = 200
# Number of seals that one statement reads. A seal has up to 240 kB of hashes, so 20 seals are at most 5 MB.
SEALS_AT_ONCE = 20
MAX_MONTHS_KEPT = 1_200


class Audit(ServiceBase):
    """Calls of the service that write, read, seal and verify the audit log."""

    # -- writing ----------------------------------------------------------------------------

    def acting_as(self, actor: str, *, request_id: str | None = None) -> AbstractContextManager[Identity]:
        """Make the audit log record `actor` as the author of the changes in a `with` block.

        The log gets one event for each changed profile, portfolio, quest or score, in the transaction of the
        change. All events of a block have the same `request_id` (up to 200 characters; None: a new one). The
        block applies only to its own thread or task. Begin a `transaction()` inside the block: a call in the
        block raises an error if a transaction began before the block. Raises `InvalidInput`.
        """
        who = check_text(actor, "actor", max_length=MAX_ACTOR)
        request = check_text(request_id, "request_id", max_length=MAX_REQUEST_ID, required=False)
        present = identity.find_identity() or Identity()
        named = dataclasses.replace(present, actor=who, request_id=request or str(new_id()))
        return identity.acting_as(named)

    @contextmanager
    def audited(self, *, actor: str, action: AuditAction, target: str) -> Iterator[AuditEvent]:
        """Record that `actor` does `action` to `target`, run the `with` block, and record the outcome.

        The block gets the recorded event. It runs only if the event was written: otherwise this call raises
        `InvalidInput` or the error of the database. After the block, a failure to record the outcome is
        logged and counted but not raised, because the action has happened. The outcome then stays `started`.
        Errors of the block are raised. Do not call this inside `transaction()`, where a rollback would remove
        the event. To also record the rows that the block changes, change them inside
        `acting_as(actor, request_id=str(event.id))`.
        """
        event = self._check_event(actor, action, target, outcome="started")
        if self._database.in_transaction():
            raise InvalidInput(f"{action} is audited inside a transaction; call it outside")
        self._insert("start_audit_event", event)
        logger.info("operator %s starts %s on %s", event.actor, event.action, event.target)
        try:
            yield event
        except BaseException as error:
            self._finish(event, "failed", f"{type(error).__name__}: {error}"[:MAX_DETAIL])
            raise
        self._finish(event, "done", None)

    def record_audit_event(
        self,
        *,
        actor: str,
        action: AuditAction,
        target: str,
        outcome: AuditOutcome = "done",
        detail: str | None = None,
    ) -> AuditEvent:
        """Record an action that has ended, such as a sign-in or a refused action. Return its event.

        `outcome` is done, failed or refused; `detail` has up to 500 characters. Inside `transaction()` a
        rollback removes the event. Raises `InvalidInput`.
        """
        ended = cast("AuditOutcome", check_choice(outcome, "outcome", ("done", "failed", "refused")))
        event = self._check_event(actor, action, target, outcome=ended, detail=detail)
        self._insert("record_audit_event", event)
        return event

    # -- reading ----------------------------------------------------------------------------

    def list_audit_events(
        self, *, limit: int = 50, after: AuditEvent | None = None
    ) -> tuple[AuditEvent, ...]:
        """Return the most recent actions of people, newest first, uncached.

        `after` is the last event of the previous page. Raises `InvalidInput`.
        """
        place = find_place(check_after(after, AuditEvent, row_key=None))
        return self._read(audit.list_actions, check_limit(limit), after=place)

    def stream_audit_events(self, *, after: AuditEvent | None = None) -> Iterator[AuditEvent]:
        """Yield every action of people, newest first.

        Reads batches of 2,000 events. Each batch is one statement with its own snapshot, and no connection is
        held between batches. `after` is the last event already read. Raises `InvalidInput`.
        """

        def load(last: AuditEvent | None, limit: int) -> tuple[AuditEvent, ...]:
            return self._read(audit.list_actions, limit, after=find_place(last))

        return stream_pages(load, check_after(after, AuditEvent, row_key=None))

    def list_audit_changes(
        self,
        *,
        row_key: UUID | str | None = None,
        limit: int = 50,
        after: AuditEvent | None = None,
    ) -> tuple[AuditEvent, ...]:
        """Return the most recent row changes that people made, newest first, uncached.

        `row_key` is the id of a user, portfolio, quest or leaderboard entry; None lists the changes of all
        rows. Amounts in the fields `before` and `after` of an event are Decimal. The argument `after` is the
        last event of the previous page. Raises `InvalidInput`.
        """
        key, place = _check_changes(row_key, after)
        return self._read(audit.list_changes, check_limit(limit), after=find_place(place), row_key=key)

    def stream_audit_changes(
        self, *, row_key: UUID | str | None = None, after: AuditEvent | None = None
    ) -> Iterator[AuditEvent]:
        """Yield every row change that people made, newest first.

        `row_key` is as in `list_audit_changes`. Reads batches of 2,000 events. Each batch is one statement
        with its own snapshot, and no connection is held between batches. `after` is the last event already
        read. Raises `InvalidInput`.
        """
        key, place = _check_changes(row_key, after)

        def load(last: AuditEvent | None, limit: int) -> tuple[AuditEvent, ...]:
            return self._read(audit.list_changes, limit, after=find_place(last), row_key=key)

        return stream_pages(load, place)

    # -- seals ------------------------------------------------------------------------------

    def seal_audit_log(self) -> AuditSealing:
        """Seal every visible event that has no seal yet. Return their number and the newest seal.

        `verify_audit_log` detects later changes of a sealed event. An event is visible once its transaction
        has committed. An event whose transaction commits later is sealed by the next call. Safe to repeat,
        and to run several times at once. Writers of events do not wait for this call.
        """
        with self._write() as (database, _), database.with_long_timeout():
            events = audit_seals.seal_events(database)
            newest = audit_seals.find_newest(database)
        anchor = None if newest is None else str(Anchor(*newest))
        self.metrics.count_task_success("seal_audit_log")
        if events:
            # Log the newest seal: with this copy outside the database, verify_audit_log can detect that the
            # newest seals were removed.
            logger.info("sealed %d audit events; the newest seal is %s", events, anchor)
        return AuditSealing(events, anchor)

    def verify_audit_log(self, *, anchor: str | None = None) -> AuditVerification:
        """Compare every sealed event with its seal, and every seal with the seal before it.

        Finds events and seals that were changed, removed or added without the service, also by a superuser.
        `broken` of the result is the first of them, in the order of the seals. The seals of dropped months
        are compared too, but their events do not exist any more. `anchor` is the text `NUMBER:HASH` of a
        seal, as `seal_audit_log` returned it; keep a copy of it outside the database. Without `anchor`, the
        removal of the newest seals is not found. Takes up to a minute for a million events. Metrics have the
        result and the time of the verification. Raises `InvalidInput`.
        """
        expected = None if anchor is None else parse_anchor(check_text(anchor, "anchor", max_length=100))
        chain = ChainVerifier(expected)
        while chain.broken is None and (
            seals := self._read_current(audit_seals.list_seals, chain.number, SEALS_AT_ONCE)
        ):
            for seal in seals:
                chain.verify(seal, self._read_current(audit_seals.read_entries, seal))
        chain.finish()
        with self._write() as (database, _), database.with_long_timeout():
            surplus = chain.find_surplus(audit_seals.count_events(database))
            for partition in surplus if chain.broken is None else ():
                added = audit_seals.find_added(database, partition, chain.number)
                if added is not None:
                    chain.broken = AuditBreak("event_added", chain.number, added)
                    break
        self.metrics.record_audit_verification(is_intact=chain.broken is None)
        return AuditVerification(
            seals=chain.seals,
            events=chain.events,
            dropped=chain.dropped,
            unsealed=sum(surplus.values()),
            anchor=chain.anchor,
            broken=chain.broken,
        )

    def maintain_audit_log(self, *, months_ahead: int = 2, keep_months: int | None = None) -> PartitionReport:
        """Seal the log, create the partitions of the coming months, and drop partitions that are too old.

        `keep_months` is the number of months to keep before the current month (None: all). The database has a
        minimum: the AUDIT_KEEP_MONTHS that was set when the owner ran `migrate up`, or all months if it was
        not set. A smaller `keep_months` raises `DatabaseError`. Events are sealed before they are dropped.
        Their seals stay, and a new seal records the drop. Safe to repeat. While partitions are created or
        dropped, writes of events wait. This call waits up to 5 seconds for running writes, and then raises
        `DatabaseError`. Raises `InvalidInput`.
        """
        ahead = check_int(months_ahead, "months_ahead", minimum=0, maximum=MAX_MONTHS_AHEAD)
        kept = None
        if keep_months is not None:
            kept = check_int(keep_months, "keep_months", minimum=1, maximum=MAX_MONTHS_KEPT)
        with self._write() as (database, _), database.with_long_timeout():
            audit_seals.seal_events(database)
        # Create the months in a transaction of their own: they stay even if the database refuses the drop.
        with self._write() as (database, _), database.with_long_timeout():
            created, dropped = audit_seals.maintain_months(database, ahead, None)
        if kept is not None:
            with self._write() as (database, _), database.with_long_timeout():
                _, dropped = audit_seals.maintain_months(database, ahead, kept)
        self.metrics.count_task_success("seal_audit_log")
        return PartitionReport(created, dropped, moved=0)

    # -- inside -----------------------------------------------------------------------------

    def _check_event(
        self,
        actor: Any,
        action: Any,
        target: Any,
        *,
        outcome: AuditOutcome,
        detail: Any = None,
    ) -> AuditEvent:
        checked = cast("AuditAction", check_choice(action, "action", get_args(AuditAction)))
        now = self._clock()
        present = identity.find_identity()
        return AuditEvent(
            id=new_id(),
            actor=check_text(actor, "actor", max_length=MAX_ACTOR),
            action=checked,
            target=check_text(target, "target", max_length=MAX_TARGET),
            outcome=outcome,
            detail=check_text(detail, "detail", max_length=MAX_DETAIL, required=False),
            created_at=now,
            finished_at=None if outcome == "started" else now,
            request_id=None if present is None else present.request_id,
        )

    def _insert(self, operation: str, event: AuditEvent) -> None:
        action = cast("AuditAction", event.action)
        try:
            with self._write_as(operation) as (database, _):
                audit.insert_event(database, event)
        except EchoMarketsError:
            self.metrics.count_audit_write_failure(action)
            raise
        self.metrics.count_audit_event(action)

    def _finish(self, start: AuditEvent, outcome: AuditOutcome, detail: str | None) -> None:
        now = max(self._clock(), start.created_at)
        event = msgspec.structs.replace(start, id=new_id(), outcome=outcome, detail=detail, created_at=now)
        try:
            with self._write_as("finish_audit_event") as (database, _):
                audit.insert_event(database, event, start_id=start.id)
        except EchoMarketsError:
            self.metrics.count_audit_write_failure(cast("AuditAction", start.action))
            logger.exception(
                "the outcome of %s by %s (%s) could not be recorded", start.action, start.actor, outcome
            )


def _check_changes(row_key: Any, after: Any) -> tuple[UUID | None, AuditEvent | None]:
    """Check and return both arguments. With a `row_key`, `after` must be a change of that row."""
    if row_key is None:
        return None, check_after(after, AuditEvent)
    key = check_id(row_key, "row_key")
    return key, check_after(after, AuditEvent, row_key=key)
