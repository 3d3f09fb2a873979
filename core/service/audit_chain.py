"""Verifies the audit log's chain of seals, and stops at the first broken seal.

A seal has the hashes of its events and the hash of the seal before it. Owns the rules that decide whether a
seal or an event was changed. Does not read the database: the caller passes the seals and the current events.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from core.errors import InvalidInput
from core.queries.audit_seals import Seal, read_id
from core.records import AuditBreak, AuditBreakKind

_ANCHOR = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")


class Anchor(NamedTuple):
    """Number and hash of a seal."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


def parse_anchor(text: str) -> Anchor:
    """Return the number and hash in a string `NUMBER:HASH`. Raises `InvalidInput`."""
    found = _ANCHOR.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"anchor is {text[:80]!r}; give NUMBER:HASH as `echo-markets audit seal` prints it"
        )
    return Anchor(int(found[1]), found[2])


class ChainVerifier:
    """Verifies seals in the order of their numbers; `broken` is the first fault found, or None."""

    def __init__(self, expected: Anchor | None) -> None:
        """`expected` is a seal that the chain must contain, or None."""
        self._expected = expected
        self._newest: Anchor | None = None
        self._listed: Counter[str] = Counter()
        self._missing: dict[str, int] = {}
        """Months whose partition does not exist, with the number of their first seal."""
        self.seals = self.events = self.dropped = 0
        self.broken: AuditBreak | None = None

    @property
    def number(self) -> int:
        """Number of the last seal that was verified; 0 before the first."""
        return 0 if self._newest is None else self._newest.number

    @property
    def anchor(self) -> str | None:
        """The last seal that was verified, as `NUMBER:HASH`; None before the first."""
        return None if self._newest is None else str(self._newest)

    def verify(self, seal: Seal, entries: Collection[bytes] | None) -> None:
        """Verify the next seal, and the events that it lists.

        `entries` has the id and digest of each event that is now stored between the seal's first and last
        event. It is the result of `audit_seals.read_entries`, which is None if there are no events to
        compare, for example because the partition of the month was dropped.
        """
        if self.broken is None:
            self.broken = self._check_seal(seal)
        if self.broken is None and entries is not None:
            self.broken = _find_broken_event(seal, entries)
        if self.broken is not None:
            return
        self._newest = Anchor(seal.number, seal.hash)
        self.seals += 1
        if seal.events == 0:
            # A seal without events records that `maintain_audit_log` dropped the month: it is not missing.
            self._missing.pop(seal.partition, None)
        elif entries is not None:
            self._listed[seal.partition] += seal.events
            self.events += seal.events
        else:
            self._missing.setdefault(seal.partition, seal.number)
            self.dropped += seal.events

    def finish(self) -> None:
        """Call this after the last seal: check whether the newest seals or whole months were removed."""
        if self.broken is None and self._expected is not None and self._expected.number > self.number:
            self.broken = AuditBreak("seal_removed", self._expected.number)
        if self.broken is None and self._missing:
            self.broken = AuditBreak("month_removed", min(self._missing.values()))

    def find_surplus(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the number of events that no seal lists, by partition.

        `counts` has the number of all events, by partition. A partition whose events are all in seals is left
        out.
        """
        surplus = {name: count - self._listed[name] for name, count in counts.items()}
        return {name: count for name, count in sorted(surplus.items()) if count > 0}

    def _check_seal(self, seal: Seal) -> AuditBreak | None:
        number, before = self.number + 1, "" if self._newest is None else self._newest.hash
        if seal.number != number:
            return AuditBreak("seal_removed", number)
        if not seal.is_intact:
            return AuditBreak("seal_changed", number)
        if seal.previous_hash != before:
            # The hash of this seal is right and covers `previous_hash`. So the previous seal was changed.
            return AuditBreak("seal_changed", max(self.number, 1))
        expected = self._expected
        if expected is not None and expected.number == number and expected.hash != seal.hash:
            return AuditBreak("seal_changed", number)
        return None


_BREAKS: Mapping[AuditBreakKind, str] = {
    "event_changed": "the event {event} was changed after it was sealed",
    "event_removed": "the event {event} was removed after it was sealed",
    "event_added": "the event {event} was added among events that were sealed before",
    "month_removed": "the month of its events was removed, and not by retention",
    "seal_changed": "the seal was changed, or another one took its place",
    "seal_removed": "the seal was removed",
}


def describe_break(found: AuditBreak) -> str:
    """Return a sentence that says where and how the audit log is broken."""
    return f"the audit log is broken at seal {found.seal}: {_BREAKS[found.kind].format(event=found.event_id)}"


def _find_broken_event(seal: Seal, entries: Collection[bytes]) -> AuditBreak | None:
    listed = seal.list_entries()
    if all(entry in entries for entry in listed):
        return None
    present = {read_id(entry) for entry in entries}
    for entry in listed:
        if entry not in entries:
            event_id = read_id(entry)
            kind: AuditBreakKind = "event_changed" if event_id in present else "event_removed"
            return AuditBreak(kind, seal.number, event_id)
    return None
