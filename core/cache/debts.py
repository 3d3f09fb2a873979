"""Invalidations that failed and have to be sent again.

Owns the keys of writes that Redis has not confirmed, with the tokens of their fences. They are sent
before this process reads from Redis again, and in the background, because a process that only writes
would otherwise never send them. Knows keys and tokens; sends no commands itself.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

# Beyond this many, the keys are dropped by a scan instead of by name.
OWED_LIMIT = 100_000
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
        self._release = release
        self._release_all = release_all
        self._clock = clock
        self._owed: dict[tuple[str, bytes], int] = {}
        # fences that Redis may still receive after their release
        self._late: dict[tuple[str, bytes], int] = {}
        self._paid_at: float | None = None
        # the number of the invalidation since which all keys are owed; 0 for none
        self._all_since = 0
        self._number = 0
        self.renew()

    def renew(self) -> None:
        """Take a new lock: in a forked child, a thread that held the old one does not exist."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many are owed; 1 when all keys are."""
        return len(self._owed) or int(bool(self._all_since))

    @property
    def is_pending(self) -> bool:
        """Whether anything is owed, or will be."""
        return bool(self._owed or self._all_since or self._late)

    def owe(self, keys: Iterable[str], token: bytes) -> None:
        """Note keys to drop, with the token of the fence that goes with them."""
        with self._lock:
            self._number += 1
            self._paid_at = None
            # each token by itself: two writers of one key have a fence each
            self._owed.update(dict.fromkeys(((key, token) for key in keys), self._number))
            if len(self._owed) > OWED_LIMIT:
                self._all_since = self._number
                self._owed.clear()

    def expect_late(self, keys: Iterable[str], token: bytes) -> None:
        """Note a fence that was sent and not confirmed: it is released again a while after the outage.

        Without that it would keep its keys out of the cache until it expires.
        """
        with self._lock:
            if len(self._late) <= OWED_LIMIT:
                self._late.update(dict.fromkeys(((key, token) for key in keys), 0))

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
            self._number += 1
            self._owed.update(dict.fromkeys(self._late, self._number))
            self._late.clear()
            self._paid_at = None
            return True

    def settle(self) -> None:
        """Pay everything; what fails stays owed, and so does what is owed anew meanwhile.

        Until it is paid others see it as owed, so that nobody reads Redis past a payment under way.
        Raises what `release` raises; a key that is refused does not keep the others from being paid.
        """
        if not self._owed and not self._all_since:
            return
        with self._lock:
            owed, all_since = dict(self._owed), self._all_since
        if all_since:
            self._release_all()
        unpaid = self._pay(owed)
        with self._lock:
            if self._all_since == all_since:
                self._all_since = 0
            for debt, number in owed.items():
                if self._owed.get(debt) == number:
                    del self._owed[debt]
        if unpaid is not None:
            raise unpaid from unpaid.__cause__

    def _pay(self, owed: dict[tuple[str, bytes], int]) -> Unpaid | None:
        """Release what is owed; what is refused is taken out of `owed`, and the last refusal returned."""
        by_token: dict[bytes, list[str]] = {}
        for key, token in owed:
            by_token.setdefault(token, []).append(key)
        last: Unpaid | None = None
        for token, keys in by_token.items():
            try:
                self._release(keys, token)
            except Unpaid as unpaid:
                last = unpaid
                for key in unpaid.keys:
                    del owed[key, token]
        return last
