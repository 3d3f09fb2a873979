"""Invalidations: the commands that drop keys in Redis, and the outbox of invalidations that failed.

The outbox keeps the keys whose invalidation Redis has not confirmed, with the tokens of their fences. It
sends them again before this process reads from Redis. A background thread also sends them, because a process
that only writes would otherwise never retry. The keys are sent in portions, so that a failed attempt costs
the same for any number of waiting keys.
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
from core.cache.lsn_slots import ALL_SLOTS, UNKNOWN, list_slots

# Maximum number of keys in one script call, because Redis serves no other client while a script runs.
SCRIPT_KEYS = 1_000
# Approximate number of keys that Redis examines in one call of SCAN.
SCAN_COUNT = 1_000
# Error codes that depend on the key: the server may accept the same command for other keys.
KEY_ERROR_CODES = frozenset({"NOPERM", "MOVED", "ASK", "CROSSSLOT", "TRYAGAIN"})
# Maximum number of pairs of key and fence token in the outbox. If there are more, a scan drops every key of
# the cache instead.
OUTBOX_LIMIT = 100_000
# Number of keys in one round trip when the outbox is flushed.
PORTION_KEYS = 1_000
# After an outage, a command whose sender gave up may still reach Redis within this time.
LATE_SECONDS = 1.0


class KeysRefused(Exception):
    """Redis refused the invalidation of `keys`. It may accept other keys. `__cause__` is the error reply."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} keys were refused")
        self.keys = keys


class KeyScripts:
    """Runs scripts for any number of keys under one prefix. Raises the errors of the client."""

    def __init__(self, client: RedisClient, *, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def add_prefix(self, keys: Sequence[str]) -> list[str]:
        """Return the names that these keys have in Redis: each with the prefix."""
        return [self._prefix + key for key in keys] if self._prefix else list(keys)

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Any],
        *,
        after: PendingReply | None = None,
    ) -> None:
        """Run a script once for every `SCRIPT_KEYS` keys, in one round trip.

        The script must return the number of its keys. Raises `InvalidResponse` for another reply.
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
            raise redis.InvalidResponse(f"the server did not confirm {sum(map(len, groups))} keys")

    def release_fence(self, keys: Sequence[str], fence: Fence, lsn: str) -> None:
        """Drop keys and their fence, and store the LSN of the write in the keys' LSN slots.

        If the fence's command still has an unread reply, the commands are sent on the same connection, and
        that reply is read first.
        """
        groups = [self._add_slots(group) for group in _split(keys)]
        self._run_each(RELEASE, groups, build_release_request(fence.token, lsn), after=fence.pending)

    def _add_slots(self, keys: Sequence[str]) -> list[str]:
        return self.add_prefix([*keys, *list_slots(keys)])

    def release(self, keys: Sequence[str], token: bytes) -> None:
        """Drop keys, and their fences with this token. `token` may also be several tokens in one string.

        Raises `KeysRefused` if Redis refuses some of the keys.
        """
        try:
            self.release_fence(keys, Fence(token), UNKNOWN)
        except ErrorReply as error:
            if error.code not in KEY_ERROR_CODES:
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
                    raise redis.InvalidResponse("the server did not confirm a key")
                refusal = reply
            refused += errors
            if len(errors) == len(group) > 1:
                # the server refuses every key of this group: do not try the other groups
                refused += keys[keys.index(group[-1]) + 1 :]
                break
        if refusal is not None:
            raise KeysRefused(refused) from refusal

    def release_all(self) -> None:
        """Drop every key of the cache, found with SCAN. Fences stay."""
        self._client.run(RELEASE, self.add_prefix(ALL_SLOTS), build_release_request(NO_TOKEN))
        for family in FAMILIES:
            cursor: Any = b"0"
            while True:
                match = ("MATCH", f"{self._prefix}{family}*", "COUNT", SCAN_COUNT)
                cursor, names = expect_list(self._client.execute("SCAN", cursor, *match), 2)
                if names:
                    self._client.run(RELEASE, names, build_release_request(NO_TOKEN))
                if cursor == b"0":
                    break


def _split(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + SCRIPT_KEYS] for start in range(0, len(keys), SCRIPT_KEYS))


def expect_list(reply: Any, length: int) -> list[Any]:
    """Return the reply if it is a list of this length, else raise `InvalidResponse`."""
    if not isinstance(reply, list) or len(reply) != length:
        raise redis.InvalidResponse(f"the reply is not a list of {length} items")
    return reply


class InvalidationOutbox:
    """Invalidations of one process that Redis has not confirmed; thread safe, bounded in number."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # key -> token of a fence -> sequence number of the invalidation; a key has one fence for each of its
        # writers
        self._waiting: OrderedDict[str, dict[bytes, int]] = OrderedDict()
        # the keys and the token of each fence that may still reach Redis after its release
        self._unconfirmed: list[tuple[Collection[str], bytes]] = []
        # the number of pairs of key and fence token in each of the two collections
        self._waiting_count = self._unconfirmed_count = 0
        # time at which `add_unconfirmed_fences` first found no waiting invalidation; None before that, and
        # again after invalidations were added
        self._emptied_at: float | None = None
        # sequence number of the invalidation that exceeded the limit, so that every key must be dropped; 0 if
        # no invalidation did
        self._all_since = 0
        self._number = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many keys wait for their invalidation; 1 if every key of the cache must be dropped."""
        return len(self._waiting) or int(bool(self._all_since))

    @property
    def is_pending(self) -> bool:
        """Whether an invalidation is unconfirmed, or a fence may still reach Redis after its release."""
        return bool(self._waiting or self._all_since or self._unconfirmed)

    def reset_after_fork(self) -> None:
        """Create a new lock. The old one may be held by a thread that does not exist in the child."""
        self._lock = threading.Lock()

    def add(self, keys: Collection[str], token: bytes) -> None:
        """Add keys that must be dropped, with the token of their fence."""
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

    def record_unconfirmed_fence(self, keys: Collection[str], token: bytes) -> None:
        """Record a fence that was sent but not confirmed, so that it is released again after the outage.

        Otherwise a fence that reaches Redis late would block its keys until it expires. Does nothing if more
        than `OUTBOX_LIMIT` pairs of key and fence token are recorded already.
        """
        with self._lock:
            if self._unconfirmed_count <= OUTBOX_LIMIT:
                self._unconfirmed.append((keys, token))
                self._unconfirmed_count += len(keys)

    def add_unconfirmed_fences(self) -> bool:
        """Add the unconfirmed fences to the outbox, if the outbox has been empty for `LATE_SECONDS`.

        Returns whether fences were added.
        """
        with self._lock:
            if self._waiting or self._all_since or not self._unconfirmed:
                return False
            now = self._clock()
            if self._emptied_at is None:
                self._emptied_at = now
            if now - self._emptied_at < LATE_SECONDS:
                return False
            for keys, token in self._unconfirmed:
                self._add(keys, token)
            self._unconfirmed, self._unconfirmed_count = [], 0
            self._emptied_at = None
            return True

    def flush(self, scripts: KeyScripts) -> None:
        """Send all waiting invalidations. Those that fail stay in the outbox.

        A key stays in the outbox until Redis has confirmed its invalidation, so no other thread reads from
        Redis before that. If Redis refuses some keys, the other keys are sent, and then `KeysRefused` is
        raised. Other errors of `scripts` are raised at once.
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
        # send only the keys that wait now, not those that are added meanwhile
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
        """Drop keys in Redis. Refused keys move to the end of the outbox, and their error is returned."""
        refusal: KeysRefused | None = None
        refused: Collection[str] = ()
        try:
            # Each key is sent with the fence tokens of all keys. No running transaction loses its fence,
            # because each token belongs to a transaction that has ended.
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
            # another thread has sent the invalidation of this key, and removed the key
            return
        for token, number in confirmed.items():
            # another number means that the pair was added again meanwhile, so it must stay
            if tokens.get(token) == number:
                del tokens[token]
                self._waiting_count -= 1
        if tokens:
            self._waiting.move_to_end(key)
        else:
            del self._waiting[key]
