"""The capability check: whether a Redis server accepts every command that the cache needs.

Some servers answer reads but refuse invalidations: a replica, a node of a cluster, a server whose user lacks
permissions, a server that cannot save its data. After a write such a server would still serve the old value.

`check` runs every command and script of the cache on scratch keys under the prefix, on a new connection.
`recheck` runs only the commands of an invalidation, and the script that claims the cache for the timeline of
the database (`core.cache.timeline_claim`). It changes only the key of this claim, so it can be repeated.
`subscribe` starts the invalidation feed. `RedisProbe` runs `check` and `subscribe` on its own connection, for
the health check; its messages contain no address.
"""

import contextlib
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import redis

from core.cache.client import Script, is_unknown_script
from core.cache.codec import FENCE_MARK, LEASE_MARK, new_token
from core.cache.connection import ErrorReply, RedisConnection, encode_command, parse_greeting
from core.cache.epochs import Epochs
from core.cache.kinds import FAMILIES
from core.cache.leases_and_fences import (
    FENCE,
    FILL,
    GRANTED,
    LEASE,
    NO_TOKEN,
    RELEASE,
    TAKEN,
    build_lease_request,
    build_release_request,
)
from core.cache.lsn_slots import SLOT_FAMILY
from core.cache.origin import read_origin
from core.cache.timeline_claim import TimelineClaim
from core.cache.topology import PRIMARY_MOVED, make_connection_factory
from core.failover import KnownTimeline
from core.settings import Settings

SCRIPTS: Final = (LEASE, FILL, FENCE, RELEASE)
# TTL of the scratch keys, for a check that is interrupted before it deletes them.
SCRATCH_MILLISECONDS: Final = 10_000
# No script has this SHA1. EVALSHA with it shows whether the server allows EVALSHA, and runs nothing.
NO_SHA: Final = "0" * 40
# The protocol version RESP3. Only RESP3 has push messages.
PUSH_PROTOCOL: Final = 3
# Maximum length of a text from `hide_addresses`, in characters. Error messages of Redis are shorter.
REASON_LENGTH: Final = 400
# Matches HOST:PORT and a bare IPv4 address, but not the line number in a script error (@user_script:12).
_ADDRESS: Final = re.compile(r"(?<![@\w])(?:\[[\da-f:]+\]|[\w-]+(?:\.[\w-]+)*):\d{2,5}\b|\b\d+(?:\.\d+){3}\b")
# Matches the host name in OpenSSL's error for a certificate of another host.
_NAME: Final = re.compile(r"valid for '[^']*'")
HINTS: Final = {
    "READONLY": "it is a replica: REDIS_URL has to name the primary",
    "MASTERDOWN": "it is a replica: REDIS_URL has to name the primary",
    **dict.fromkeys(
        ("MOVED", "ASK", "CROSSSLOT", "TRYAGAIN", "CLUSTERDOWN"),
        "it is a node of a cluster: set REDIS_KEY_PREFIX to a hash tag such as {echo}: so that all keys"
        " are in one slot",
    ),
    **dict.fromkeys(("NOAUTH", "WRONGPASS"), "set REDIS_PASSWORD, or name and password in REDIS_URL"),
    "TIMELINE": "docs/redis.md says what to do",
    "NOPERM": "docs/redis.md has the permissions that a user needs",
}


class Incapable(ErrorReply):
    """The server accepted a command, but its reply is not the one that the cache needs."""


class FeedRefused(redis.RedisError):
    """The server accepts commands, but it sends no invalidations."""


class Step(NamedTuple):
    """One command of a check, and the tests of its reply."""

    name: str
    command: bytes
    is_right: Callable[[Any], bool]
    # whether an error reply is the right reply
    is_expected: Callable[[ErrorReply], bool] = lambda _: False
    # error message for a wrong reply; if it is empty, a general message is used
    error_message: str = ""


class CapabilityCheck:
    """The capability check for one key prefix and one Redis user; thread safe.

    With `epochs` (see `core.cache.epochs`) the check also fails if another server has become the primary.
    """

    def __init__(
        self,
        prefix: str,
        account: tuple[str, ...],
        timeline: KnownTimeline | None = None,
        *,
        epochs: Epochs | None = None,
        trust_seconds: float = 0.0,
    ) -> None:
        """Prepare the commands. Send nothing yet.

        With a `timeline`, each check records it in Redis as the timeline of the cached values (see
        `TimelineClaim`). `trust_seconds` is the longest time for which other processes trust a check.
        """
        self._prefix = prefix
        self._account = account
        self._epochs = epochs
        self._claim = TimelineClaim(prefix, timeline or KnownTimeline(), trust_seconds=trust_seconds)
        # `recheck` creates none of these keys, so every call can use the same names
        self._keys = keys = self._name_keys()
        self._recheck = {protocol: _list_recheck(keys, protocol, account) for protocol in (2, 3)}

    def check(self, connection: RedisConnection) -> ErrorReply | None:
        """Check the server of a new connection, and load `SCRIPTS` into it. Raises `ErrorReply`.

        Returns None, or the error of a server whose memory is full: it cannot store values, but it can delete
        keys.
        """
        if not connection.protocol:
            connection.connect()
        keys = self._name_keys()
        recheck = self.list_recheck(connection.protocol)
        commands = [*recheck, *_list_commands(keys)]
        scripts = _list_scripts(keys)
        replies = connection.exchange([step.command for step in (*commands, *scripts)])
        # evaluate commands before scripts: the error of a command says which command was refused
        refusal = evaluate(commands, replies[: len(commands)])
        refusal = evaluate(scripts, replies[len(commands) :]) or refusal
        self._claim.evaluate(connection, replies[len(recheck) - 1])
        return refusal

    def admit(self, connection: RedisConnection) -> Sequence[Script]:
        """Check a new connection. Return the scripts that its server has afterwards.

        Also sets the attributes `epoch` and `origin` of the connection.
        """
        self.check(connection)
        self.join_epoch(connection)
        connection.origin = read_origin(connection)
        return SCRIPTS

    def join_epoch(self, connection: RedisConnection) -> None:
        """Join the epoch of the connection's server, see `core.cache.epochs`.

        Does nothing in a topology without epochs. Raises `ErrorReply` if another server is the primary now.
        """
        if self._epochs is not None:
            self._epochs.join(connection)

    def recheck(self, connection: RedisConnection) -> None:
        """Check a connection again that has passed `check`. Raises `ErrorReply`."""
        steps = self.list_recheck(connection.protocol, connection.epoch)
        if self.check_replies(connection, steps, connection.exchange([step.command for step in steps])):
            connection.origin = read_origin(connection)

    def list_recheck(self, protocol: int, epoch: bytes = b"") -> list[Step]:
        """Return the steps of `recheck`, for a caller that reads the replies one by one."""
        claim = Step("EVAL", self._claim.encode(self._keys), _is_list)
        if self._epochs is None or not epoch:
            return [*self._recheck[protocol], claim]
        same = Step(
            "MGET",
            encode_command("MGET", self._epochs.key),
            lambda found: found == [epoch],
            error_message=PRIMARY_MOVED,
        )
        return [*self._recheck[protocol], same, claim]

    def check_replies(self, connection: RedisConnection, steps: Sequence[Step], replies: list[Any]) -> bool:
        """Check the replies to the steps of `list_recheck`. Return whether the database's timeline changed.

        Raises `ErrorReply` if the server refused a step or a reply is wrong.
        """
        evaluate(steps, replies)
        if self._epochs is not None:
            self._epochs.topology.confirm(connection)
        return self._claim.evaluate(connection, replies[-1])

    def _name_keys(self) -> list[str]:
        """Return one new key for each prefix in `SLOT_FAMILY` and `FAMILIES`, in this order."""
        name = f"capability-check:{secrets.token_hex(8)}"
        return [f"{self._prefix}{family}{name}" for family in (SLOT_FAMILY, *FAMILIES)]


def evaluate(steps: Sequence[Step], replies: Iterable[Any]) -> ErrorReply | None:
    """Raise `ErrorReply` if the server refused a step or if a reply is wrong.

    The message of the error contains the server's message and the names of the refused commands. An error
    that only says that the server's memory is full is not raised but returned. Returns None without such an
    error.
    """
    refused: list[tuple[str, ErrorReply]] = []
    wrong: list[Step] = []
    for step, reply in zip(steps, replies, strict=True):
        if isinstance(reply, ErrorReply):
            if not step.is_expected(reply):
                refused.append((step.name, reply))
        elif not _is_right(step, reply):
            wrong.append(step)
    serious = [(name, error) for name, error in refused if not is_tolerated(error)]
    if serious:
        names = ", ".join(dict.fromkeys(name for name, _ in serious))
        raise ErrorReply(f"{serious[0][1]} (refused: {names})")
    for step in wrong:
        # a server whose memory is full stored nothing, so a later step finds no value: ignore this
        if step.error_message or not refused:
            raise Incapable(step.error_message or f"it answers {step.name} in another way than Redis")
    return refused[0][1] if refused else None


def is_tolerated(error: ErrorReply) -> bool:
    """Return whether the error only means that the server's memory is full: it can still delete keys."""
    # up to Redis 6 the error of a script contains the error of the command that failed in it
    return error.code == "OOM" or "-OOM " in str(error)


def describe(error: Exception) -> str:
    """Return the message of an error, with a hint how to fix its cause if there is one."""
    hint = HINTS.get(error.code) if isinstance(error, ErrorReply) else None
    return f"{error}; {hint}" if hint else str(error)


def _list_recheck(keys: Sequence[str], protocol: int, account: tuple[str, ...]) -> list[Step]:
    """Return the commands of each `recheck`. They change no data, because none of the keys exists.

    SET has the option XX, so it does not create its key.
    """
    scratch = keys[-1]
    return [
        # HELLO signs in again. After the password was changed, open connections still work, but other
        # processes cannot connect to send invalidations. HELLO also reports the role. A writable replica
        # accepts writes, but loses them when its primary writes the same keys.
        Step(
            "HELLO",
            encode_command("HELLO", protocol, *(("AUTH", *account) if account else ())),
            _is_primary,
            error_message="READONLY its role is replica",
        ),
        Step("TIME", encode_command("TIME"), _is_list),
        Step("SET", encode_command("SET", scratch, "", "XX", "PX", SCRATCH_MILLISECONDS), _is_none),
        # one key only, because each missing key counts as a miss in the server's statistics
        Step("MGET", encode_command("MGET", scratch), _is_list),
        Step("UNLINK", encode_command("UNLINK", *keys), _is_int),
        Step("EVALSHA", encode_command("EVALSHA", NO_SHA, 0), _is_none, is_expected=is_unknown_script),
    ]


def _list_commands(keys: Sequence[str]) -> list[Step]:
    """Return steps that each test one command that `recheck` does not test. They change no data."""
    scratch = keys[-1]
    return [
        Step("MGET", encode_command("MGET", *keys), _is_list),
        Step("PTTL", encode_command("PTTL", scratch), _is_int),
        Step("DEL", encode_command("DEL", scratch), _is_int),
        Step("SCAN", encode_command("SCAN", 0, "MATCH", scratch, "COUNT", 1), _is_list),
    ]


def _list_scripts(keys: Sequence[str]) -> list[Step]:
    """Return steps that run the scripts, and steps that read the value that a script has stored."""
    *_, scratch = keys
    one, two = new_token(FENCE_MARK), new_token(FENCE_MARK)
    lease, other = new_token(LEASE_MARK), new_token(LEASE_MARK)

    def run(name: str, script: Script, key: str, arguments: Sequence[Any], *, right: Any) -> Step:
        command = encode_command("EVAL", script.text, 1, key, *arguments)
        return Step(name, command, lambda reply: bool(reply == right))

    def check_stored(name: str, is_right: Callable[[bytes], bool]) -> Step:
        return Step(name, encode_command("MGET", scratch), lambda reply: is_right(reply[0] or b""))

    release_all = encode_command("EVALSHA", RELEASE.sha, len(keys), *keys, *build_release_request(NO_TOKEN))
    return [
        run("FENCE", FENCE, scratch, [one, SCRATCH_MILLISECONDS], right=1),
        run("FENCE", FENCE, scratch, [two, SCRATCH_MILLISECONDS], right=1),
        run("RELEASE", RELEASE, scratch, build_release_request(one), right=1),
        check_stored("SET KEEPTTL", lambda stored: stored.startswith(two)),
        Step("PTTL", encode_command("PTTL", scratch), lambda left: 0 < left <= SCRATCH_MILLISECONDS),
        run("RELEASE", RELEASE, scratch, build_release_request(two), right=1),
        run("LEASE", LEASE, scratch, build_lease_request(lease, [scratch], [], b""), right=[GRANTED]),
        run("LEASE", LEASE, scratch, build_lease_request(other, [scratch], [], b""), right=[TAKEN]),
        run("FILL", FILL, scratch, [lease, 1, SCRATCH_MILLISECONDS, "V"], right=1),
        check_stored("FILL", lambda stored: stored == b"V"),
        Step("RELEASE", release_all, lambda reply: bool(reply == len(keys))),
        check_stored("RELEASE", lambda stored: not stored),
    ]


def _is_right(step: Step, reply: Any) -> bool:
    try:
        return step.is_right(reply)
    except (TypeError, IndexError):
        return False


def _is_primary(reply: Any) -> bool:
    return parse_greeting(reply).get("role") not in {b"slave", b"replica"}


def _is_list(reply: Any) -> bool:
    return isinstance(reply, list)


def _is_int(reply: Any) -> bool:
    return isinstance(reply, int)


def _is_none(reply: Any) -> bool:
    return reply is None


# -- invalidation feed ------------------------------------------------------------------------


def encode_subscription(prefix: str) -> bytes:
    """Return the command that subscribes a connection to changes of all value keys and version keys."""
    arguments = [argument for family in FAMILIES for argument in ("PREFIX", prefix + family)]
    return encode_command("CLIENT", "TRACKING", "ON", "BCAST", *arguments)


def subscribe(connection: RedisConnection, subscription: bytes) -> None:
    """Subscribe a connection to invalidations.

    Raises `FeedRefused`, or `ErrorReply` with the server's message.
    """
    if not connection.protocol:
        connection.connect()
    if connection.protocol != PUSH_PROTOCOL:
        # on RESP2 the server confirms CLIENT TRACKING, but sends no invalidations
        raise FeedRefused("the connection has RESP2, and Redis sends invalidations on RESP3 only")
    [reply] = connection.exchange([subscription])
    if isinstance(reply, ErrorReply):
        raise ErrorReply(f"{reply} (refused: CLIENT TRACKING)")
    if reply != b"OK":
        raise FeedRefused("the server did not confirm CLIENT TRACKING")


# -- diagnosis --------------------------------------------------------------------------------


class Diagnosis(NamedTuple):
    """Whether the cache can use the server. `reason` says what does not work, or is None."""

    is_usable: bool
    reason: str | None = None


class RedisProbe:
    """Checks the Redis server of the settings for the health check; thread safe."""

    def __init__(self, settings: Settings, *, client_name: str) -> None:
        self._connect = make_connection_factory(settings, client_name)
        address = settings.read_redis_address()
        self._capability = CapabilityCheck(settings.redis_key_prefix, address.account)
        # `protocol=2` in REDIS_URL turns the near cache off on purpose, so this is not an error
        has_feed = settings.near_cache_size > 0 and address.protocol == PUSH_PROTOCOL
        self._subscription = encode_subscription(settings.redis_key_prefix) if has_feed else None

    def examine(self) -> Diagnosis:
        """Connect, check everything that the cache needs, and return the result. Raises no error of Redis."""
        try:
            with contextlib.closing(self._connect()) as connection:
                refusal = self._capability.check(connection)
                if refusal is not None:
                    return Diagnosis(is_usable=True, reason=hide_addresses(f"stores nothing: {refusal}"))
                return self._examine_feed(connection)
        except (redis.RedisError, OSError) as error:
            return Diagnosis(is_usable=False, reason=hide_addresses(describe(error)))

    def _examine_feed(self, connection: RedisConnection) -> Diagnosis:
        if self._subscription is None:
            return Diagnosis(is_usable=True)
        try:
            subscribe(connection, self._subscription)
        except (ErrorReply, FeedRefused) as error:
            return Diagnosis(is_usable=True, reason=hide_addresses(f"near cache off: {describe(error)}"))
        return Diagnosis(is_usable=True)


def hide_addresses(text: str) -> str:
    """Return `text` with placeholders for addresses and host names, so that anybody may see it."""
    text = _NAME.sub("valid for its name", text)
    return _ADDRESS.sub("(address)", text)[:REASON_LENGTH]
