"""What is wrong with Redis, for health: one look on a connection of its own.

Owns the difference between a server that cannot be used and one that is used with less than it
should give. Proves the same as the cache does before it reads. No address stands in what it says.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Final, NamedTuple

import redis

from core.cache.capability import CapabilityCheck, describe
from core.cache.feed import PUSH_PROTOCOL, FeedRefused, pack_subscription, subscribe
from core.cache.guard import wires_to_redis
from core.cache.keys import FAMILIES
from core.cache.wire import ErrorReply, Wire
from core.settings import Settings

# Long enough for the words of a server; what follows is never a reason.
REASON_LENGTH: Final = 400
# HOST:PORT and a bare IPv4 address, but not the line of a script (@user_script:12).
_ADDRESS: Final = re.compile(r"(?<![@\w])(?:\[[\da-f:]+\]|[\w-]+(?:\.[\w-]+)*):\d{2,5}\b|\b\d+(?:\.\d+){3}\b")
# the name that a certificate should have
_NAME: Final = re.compile(r"valid for '[^']*'")


class Diagnosis(NamedTuple):
    """Whether the cache can use the server, and what is wrong; no reason when nothing is."""

    is_usable: bool
    reason: str | None = None


class RedisDoctor:
    """Looks at the Redis that the settings name; thread safe."""

    def __init__(self, settings: Settings, *, client_name: str) -> None:
        self._make_wire: Callable[[], Wire] = wires_to_redis(settings, client_name)
        self._capability = CapabilityCheck(settings.redis_key_prefix)
        has_feed = settings.near_cache_size > 0
        # with `protocol=2` there is no near cache on purpose
        is_wanted = has_feed and settings.read_redis_address().protocol == PUSH_PROTOCOL
        self._subscription = pack_subscription(settings.redis_key_prefix, FAMILIES) if is_wanted else None

    def examine(self) -> Diagnosis:
        """Connect, and let the server do everything that the cache needs; raises nothing."""
        try:
            with contextlib.closing(self._make_wire()) as wire:
                refusal = self._capability.check(wire)
                if refusal is not None:
                    return Diagnosis(is_usable=True, reason=hide_addresses(f"stores nothing: {refusal}"))
                return self._examine_feed(wire)
        except (redis.RedisError, OSError) as error:
            return Diagnosis(is_usable=False, reason=hide_addresses(describe(error)))

    def _examine_feed(self, wire: Wire) -> Diagnosis:
        if self._subscription is None:
            return Diagnosis(is_usable=True)
        try:
            subscribe(wire, self._subscription)
        except (ErrorReply, FeedRefused) as error:
            return Diagnosis(is_usable=True, reason=hide_addresses(f"near cache off: {describe(error)}"))
        return Diagnosis(is_usable=True)


def hide_addresses(text: str) -> str:
    """Return `text` without addresses and names of hosts, safe to show to everybody."""
    text = _NAME.sub("valid for its name", text)
    return _ADDRESS.sub("(address)", text)[:REASON_LENGTH]
