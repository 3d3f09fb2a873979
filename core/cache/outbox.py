"""Invalidations: the commands that drop keys in Redis, and the outbox of invalidations that failed.

The outbox keeps the keys whose invalidation Redis has not confirmed, with the tokens of their fences. These
invalidations are sent again before this process reads from Redis, and by a background thread, because a
process that only writes would otherwise never retry. They are sent in portions, so that the cost of a failed
attempt does not grow with the number of waiting keys.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import redis

from core.cache.client import Keys, PendingReply, RedisClient, Script
from core.cache.connection import ErrorReply
from core.cache.kinds import FAMILIES
from core.cache.leases_and_fences import NO_TOKEN, RELEASE, Fence, build_release_request
from core.cache.position_slots import ALL_SLOTS, UNKNOWN, list_slots

# Most keys of one script call: Redis serves no other client while a script runs.
SCRIPT_KEYS = 1_000
SCAN_COUNT = 1_000
# Error codes that depend on the key: the server may accept the same command for other keys.
OF_A_KEY = frozenset({"NOPERM", "MOVED", "ASK", "CROSSSLOT", "TRYAGAIN"})
# Most pairs of key and token in the outbox. If there are more, a scan drops every key of the cache instead.
OUTBOX_LIMIT = 100_000
# Keys per round trip when the outbox is flushed.
PORTION_KEYS = 1_000
# A command whose sender gave up may still reach Redis up to this long after the end of the outage.
LATE_SECONDS = 1.0


class KeysRefused(Exception):
    """Redis refused the invalidation of these keys, but not of all keys; `__cause__` is its error reply."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} keys were refused")
        self.keys = keys


class KeyScripts:
    """Runs scripts over any number of keys under one prefix; raises what the client raises."""

    def __init__(self, client: RedisClient, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def add_prefix(self, keys: Sequence[str]) -> list[str]:
        """Return the names of these keys in Redis, with the prefix."""
        return [self._prefix + key for key in keys] if self._prefix else list(keys)

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Any],
        *,
        after: PendingReply | None = None,
    ) -> None:
        """Run a script once for every thousand keys, in one round trip.

        The script has to return the number of its keys; raises `InvalidResponse` for another reply.
        """
        self._run_each(script, list(_split(self.add_prefix(keys))), arguments, after=after)

    def _run_each(
        self,
        script: Script,
        groups: Sequence[Keys],
        arguments: Sequence[Any],
        *,
        after: PendingReply | None = None,
    ) -> None:
        replies = self._client.run_each(script, groups, arguments, after=after)
        if replies != [len(group) for group in groups]:
            raise redis.InvalidResponse(f"no confirmation of {sum(map(len, groups))} keys")

    def release_fence(self, keys: Sequence[str], fence: Fence, position: str) -> None:
        """Drop keys and their fence, and store the position of the write in their slots.

        A pending fence command is read first, on its own connection.
        """
        groups = [self._add_slots(group) for group in _split(keys)]
        self._run_each(RELEASE, groups, build_release_request(fence.token, position), after=fence.pending)

    def _add_slots(self, keys: Sequence[str]) -> list[str]:
        return self.add_prefix([*keys, *list_slots(keys)])

    def release(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys and those of their fences whose token is in `token`; one string may hold several tokens.

        Raises `KeysRefused` if only some keys are refused.
        """
        try:
            self.release_fence(keys, Fence(token), UNKNOWN)
        except ErrorReply as error:
            if error.code not in OF_A_KEY:
                raise
            self._release_each(keys, token)

    def _release_each(self, keys: Sequence[str], token: bytes) -> None:
        refused: list[str] = []
        refusal: ErrorReply | None = None
        for group in _split(keys):
            names: list[Keys] = [self._add_slots([key]) for key in group]
            replies = self._client.try_each(RELEASE, names, build_release_request(token))
            errors = {
                key: reply for key, own, reply in zip(group, names, replies, strict=True) if reply != len(own)
            }
            for reply in errors.values():
                if not isinstance(reply, ErrorReply):
                    raise redis.InvalidResponse("no confirmation of a key")
                refusal = reply
            refused += errors
            if len(errors) == len(group) > 1:
                # the server refuses every key, not just some: do not try the other groups
                refused += keys[keys.index(group[-1]) + 1 :]
                break
        if refusal is not None:
            raise KeysRefused(refused) from refusal

    def release_all(self) -> None:
        """Find every key of the cache with SCAN and drop it; fences stay."""
        self._client.run(RELEASE, self.add_prefix(ALL_SLOTS), build_release_request(NO_TOKEN))
        for family in FAMILIES:
            cursor: Any = b"0"
            while True:
                match = ("MATCH", f"{self._prefix}{family}*", "COUNT", SCAN_COUNT)
                cursor, names = expect_list(self._client.ask("SCAN", cursor, *match), 2)
                if names:
                    self._client.run(RELEASE, names, build_release_request(NO_TOKEN))
                if cursor == b"0":
                    break


def _split(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + SCRIPT_KEYS] for start in range(0, len(keys), SCRIPT_KEYS))


def expect_list(reply: Any, length: int) -> list[Any]:
    """Return the reply if it is a list of this length; raises `InvalidResponse` for any other reply."""
    if not isinstance(reply, list) or len(reply) != length:
        raise redis.InvalidResponse(f"no list of {length}")
    return reply


class InvalidationOutbox:
    """Invalidations of one process that Redis has not confirmed; thread safe, bounded in number."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # key -> token -> number of the invalidation; two writers of one key have a fence each
        self._waiting: OrderedDict[str, dict[bytes, int]] = OrderedDict()
        # fences that Redis may still receive after their release
        self._late: list[tuple[Collection[str], bytes]] = []
        # pairs of key and token
        self._waiting_count = self._late_count = 0
        self._emptied_at: float | None = None
        # number of the invalidation that exceeded the limit, so that every key has to be dropped; 0 for none
        self._all_since = 0
        self._number = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many keys wait for their invalidation; 1 if every key of the cache has to be dropped."""
        return len(self._waiting) or int(bool(self._all_since))

    @property
    def is_pending(self) -> bool:
        """Whether an invalidation is unconfirmed, or a fence may still arrive after its release."""
        return bool(self._waiting or self._all_since or self._late)

    def reset_after_fork(self) -> None:
        """Create a new lock: a thread that held the old one does not exist in the child."""
        self._lock = threading.Lock()

    def add(self, keys: Collection[str], token: bytes) -> None:
        """Add keys to drop, with the token of their fence."""
        with self._lock:
            self._emptied_at = None
            self._add(keys, token)

    def _add(self, keys: Collection[str], token: bytes) -> None:
        self._number += 1
        for key in keys:
            tokens = self._waiting.setdefault(key, {})
            self._waiting_count += token not in tokens
            tokens[token] = self._number
        if self._waiting_count > OUTBOX_LIMIT:
            self._all_since = self._number
            self._waiting, self._waiting_count = OrderedDict(), 0

    def expect_late(self, keys: Collection[str], token: bytes) -> None:
        """Note a fence that was sent and not confirmed: it is released again shortly after the outage.

        Without this, a fence that reaches Redis late would block its keys until it expires.
        """
        with self._lock:
            if self._late_count <= OUTBOX_LIMIT:
                self._late.append((keys, token))
                self._late_count += len(keys)

    def add_late(self) -> bool:
        """Add the late fences to the outbox if it has been empty for LATE_SECONDS.

        Returns whether fences were added.
        """
        with self._lock:
            if self._waiting or self._all_since or not self._late:
                return False
            now = self._clock()
            if self._emptied_at is None:
                self._emptied_at = now
            if now - self._emptied_at < LATE_SECONDS:
                return False
            for keys, token in self._late:
                self._add(keys, token)
            self._late, self._late_count = [], 0
            self._emptied_at = None
            return True

    def flush(self, scripts: KeyScripts) -> None:
        """Send all waiting invalidations; those that fail, and those that are added meanwhile, stay.

        A key stays in the outbox until Redis has confirmed its invalidation, so that no other thread reads
        from Redis before. Raises what `scripts` raises; if a key is refused, the others are sent first.
        """
        if not self._waiting and not self._all_since:
            return
        all_since = self._all_since
        if all_since:
            scripts.release_all()
            with self._lock:
                if self._all_since == all_since:
                    self._all_since = 0
        last: KeysRefused | None = None
        # only the keys that wait now: keys that are added meanwhile come after them
        left = len(self._waiting)
        while left > 0 and (portion := self._copy_portion(left)):
            left -= len(portion)
            last = self._send(portion, scripts) or last
        if last is not None:
            raise last from last.__cause__

    def _copy_portion(self, left: int) -> dict[str, dict[bytes, int]]:
        with self._lock:
            return {
                key: dict(tokens) for key, tokens in islice(self._waiting.items(), min(left, PORTION_KEYS))
            }

    def _send(self, portion: dict[str, dict[bytes, int]], scripts: KeyScripts) -> KeysRefused | None:
        """Release keys; return the error if some were refused. Refused keys move to the end of the outbox."""
        refusal: KeysRefused | None = None
        refused: Collection[str] = ()
        try:
            # all tokens at once: each belongs to a transaction that has ended, so its fence is not needed
            scripts.release(list(portion), b"".join(set(chain.from_iterable(portion.values()))))
        except KeysRefused as error:
            refusal, refused = error, set(error.keys)
        with self._lock:
            for key, numbers in portion.items():
                self._remove(key, {} if key in refused else numbers)
        return refusal

    def _remove(self, key: str, confirmed: dict[bytes, int]) -> None:
        tokens = self._waiting.get(key)
        if tokens is None:
            # another thread has sent the same key and removed it
            return
        for token, number in confirmed.items():
            # another number means that the pair was added again meanwhile, so it has to stay
            if tokens.get(token) == number:
                del tokens[token]
                self._waiting_count -= 1
        if tokens:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]
