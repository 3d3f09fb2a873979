"""Invalidations that failed and have to be sent again.

Owns the keys of writes that Redis has not confirmed, with the tokens of their fences. They are sent
before this process reads from Redis again, and in the background, because a process that only writes
would otherwise never send them. They are sent in portions, so an attempt that fails costs the same
however many are owed. Knows keys and tokens; sends no commands itself.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from itertools import chain, islice

# Beyond this many, the keys are dropped by a scan instead of by name.
OWED_LIMIT = 100_000
# Keys of one payment: what a server that answers again is asked for in one round trip.
PORTION_KEYS = 1_000
# A command whose sender gave up arrives, if it does, together with the end of the outage.
LATE_SECONDS = 1.0


class Unpaid(Exception):
    """Redis confirmed other keys and refused these."""

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} keys were refused")
        self.keys = keys


class Debts:
    """What one process owes; thread safe, bounded in number."""

    def __init__(
        self,
        *,
        release: Callable[[Sequence[str], bytes], None],
        release_all: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`release` drops keys with the fences of tokens, which are all in one string."""
        self._release = release
        self._release_all = release_all
        self._clock = clock
        # key -> token -> number of the invalidation; two writers of one key have a fence each
        self._owed: OrderedDict[str, dict[bytes, int]] = OrderedDict()
        # fences that Redis may still receive after their release
        self._late: list[tuple[Collection[str], bytes]] = []
        # pairs of key and token
        self._owed_count = self._late_count = 0
        self._paid_at: float | None = None
        # the number of the invalidation since which all keys are owed; 0 for none
        self._all_since = 0
        self._number = 0
        self.renew()

    def renew(self) -> None:
        """Take a new lock: in a forked child, a thread that held the old one does not exist."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many keys are owed; 1 when all are."""
        return len(self._owed) or int(bool(self._all_since))

    @property
    def is_pending(self) -> bool:
        """Whether anything is owed, or will be."""
        return bool(self._owed or self._all_since or self._late)

    def owe(self, keys: Collection[str], token: bytes) -> None:
        """Note keys to drop, with the token of the fence that goes with them."""
        with self._lock:
            self._paid_at = None
            self._note(keys, token)

    def _note(self, keys: Collection[str], token: bytes) -> None:
        self._number += 1
        for key in keys:
            tokens = self._owed.setdefault(key, {})
            self._owed_count += token not in tokens
            tokens[token] = self._number
        if self._owed_count > OWED_LIMIT:
            self._all_since = self._number
            self._owed, self._owed_count = OrderedDict(), 0

    def expect_late(self, keys: Collection[str], token: bytes) -> None:
        """Note a fence that was sent and not confirmed: it is released again a while after the outage.

        Without that it would keep its keys out of the cache until it expires.
        """
        with self._lock:
            if self._late_count <= OWED_LIMIT:
                self._late.append((keys, token))
                self._late_count += len(keys)

    def owe_late(self) -> bool:
        """Owe the late fences once all else has been paid for a while; return whether any is owed now."""
        with self._lock:
            if self._owed or self._all_since or not self._late:
                return False
            now = self._clock()
            if self._paid_at is None:
                self._paid_at = now
            if now - self._paid_at < LATE_SECONDS:
                return False
            for keys, token in self._late:
                self._note(keys, token)
            self._late, self._late_count = [], 0
            self._paid_at = None
            return True

    def settle(self) -> None:
        """Pay everything; what fails stays owed, and so does what is owed anew meanwhile.

        Until it is paid others see it as owed, so that nobody reads Redis past a payment under way.
        Raises what `release` raises; a key that is refused does not keep the others from being paid.
        """
        if not self._owed and not self._all_since:
            return
        all_since = self._all_since
        if all_since:
            self._release_all()
            with self._lock:
                if self._all_since == all_since:
                    self._all_since = 0
        last: Unpaid | None = None
        # what is owed at this moment; what is owed meanwhile is behind it
        left = len(self._owed)
        while left > 0 and (portion := self._list_portion(left)):
            left -= len(portion)
            last = self._pay(portion) or last
        if last is not None:
            raise last from last.__cause__

    def _list_portion(self, left: int) -> dict[str, dict[bytes, int]]:
        with self._lock:
            return {key: dict(tokens) for key, tokens in islice(self._owed.items(), min(left, PORTION_KEYS))}

    def _pay(self, portion: dict[str, dict[bytes, int]]) -> Unpaid | None:
        """Release keys; return the refusal when some are refused, which go behind all others."""
        refusal: Unpaid | None = None
        refused: Collection[str] = ()
        try:
            # all tokens are of transactions that have ended, so none of their fences is needed anywhere
            self._release(list(portion), b"".join(set(chain.from_iterable(portion.values()))))
        except Unpaid as unpaid:
            refusal, refused = unpaid, set(unpaid.keys)
        with self._lock:
            for key, numbers in portion.items():
                self._strike_off(key, {} if key in refused else numbers)
        return refusal

    def _strike_off(self, key: str, paid: dict[bytes, int]) -> None:
        owed = self._owed.get(key)
        if owed is None:
            # another thread paid it as well
            return
        for token, number in paid.items():
            # not what is owed anew
            if owed.get(token) == number:
                del owed[token]
                self._owed_count -= 1
        if owed:
            self._owed.move_to_end(key)
        else:
            del self._owed[key]
