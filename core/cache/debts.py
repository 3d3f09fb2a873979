"""The invalidations that Redis still has to be told of.

Owns what is owed and pays it: before anything is read from Redis, and in the background,
because a process that wrote while Redis was down may never read again, and others do.
Knows keys and tokens, no commands.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

logger = logging.getLogger(__name__)

# Beyond this many, the keys are dropped by a scan instead of by name.
OWED_LIMIT = 100_000
# Other processes may read what is owed as soon as Redis answers them, so that is noticed soon.
RETRY_SECONDS = 0.1
# A command whose sender gave up arrives, if it does, together with the end of the outage.
LATE_SECONDS = 1.0


class Debts:
    """What one process owes; thread safe, bounded in number."""

    def __init__(
        self,
        *,
        release: Callable[[Sequence[str], bytes], None],
        release_all: Callable[[], None],
        pay: Callable[[], None],
    ) -> None:
        self._release = release
        self._release_all = release_all
        self._pay = pay
        self._owed: dict[tuple[str, bytes], int] = {}
        # fences that Redis may still receive after their release
        self._late: dict[tuple[str, bytes], int] = {}
        # the number of the invalidation since which all keys are owed; 0 for none
        self._all_since = 0
        self._number = 0
        self.renew()

    def renew(self) -> None:
        """Take new locks: in a forked child, threads that held the old ones do not exist."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._payer: threading.Thread | None = None

    def __len__(self) -> int:
        """Return how many are owed; 1 when all keys are."""
        return len(self._owed) or int(bool(self._all_since))

    def owe(self, keys: Iterable[str], token: bytes) -> None:
        """Note keys to drop, with the token of the fence that goes with them."""
        with self._lock:
            self._number += 1
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
        self.settle_in_background()

    def settle(self) -> None:
        """Pay everything; what fails stays owed, and so does what is owed anew meanwhile.

        Until it is paid others see it as owed, so that nobody reads Redis past a payment under way.
        """
        if not self._owed and not self._all_since:
            return
        with self._lock:
            owed, all_since = dict(self._owed), self._all_since
        if all_since:
            self._release_all()
        by_token: dict[bytes, list[str]] = {}
        for key, token in owed:
            by_token.setdefault(token, []).append(key)
        for token, keys in by_token.items():
            self._release(keys, token)
        with self._lock:
            if self._all_since == all_since:
                self._all_since = 0
            for debt, number in owed.items():
                if self._owed.get(debt) == number:
                    del self._owed[debt]

    def settle_in_background(self) -> None:
        """Keep trying until nothing is owed any more."""
        with self._lock:
            if self._payer is not None or self._closing.is_set():
                return
            self._payer = threading.Thread(target=self._keep_paying, name="invalidation-debts", daemon=True)
            self._payer.start()

    def _keep_paying(self) -> None:
        paid_at: float | None = None
        while not self._closing.wait(RETRY_SECONDS):
            self._pay()
            with self._lock:
                if self._owed or self._all_since:
                    paid_at = None
                elif not self._late:
                    self._payer = None
                    return
                elif paid_at is None:
                    paid_at = time.monotonic()
                elif time.monotonic() - paid_at >= LATE_SECONDS:
                    self._number += 1
                    self._owed.update(dict.fromkeys(self._late, self._number))
                    self._late.clear()

    def close(self) -> None:
        """Try for the last time; what remains is stale for others until its time to live ends."""
        self._closing.set()
        if len(self):
            self._pay()
        if len(self):
            logger.warning("%d keys are stale in redis until they expire: it did not answer", len(self))
