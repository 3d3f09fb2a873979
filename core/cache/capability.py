"""The capability check: whether a server does everything that invalidation needs.

A server may answer reads and refuse to invalidate: a replica, a node of a cluster, a user without
permission, a server that cannot save its data. What it has would then be read after a write.

Owns the commands of the check, and the words for what is missing. Keeps no connection. `check` runs the
scripts on scratch keys under the prefix and proves a new connection. `recheck` changes nothing and
tells nobody of keys, so it can be repeated; it needs what an invalidation needs.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from core.cache.claims import GRANTED, NO_TOKEN, TAKEN, build_request
from core.cache.codec import FENCE_MARK, LEASE_MARK, new_token
from core.cache.keys import FAMILIES
from core.cache.link import Script
from core.cache.scripts import FENCE, FILL, LEASE, RELEASE
from core.cache.wire import ErrorReply, Wire, pack, read_greeting

SCRIPTS: Final = (LEASE, FILL, FENCE, RELEASE)
# Scratch keys of a check that was cut off are gone after this time.
SCRATCH_MILLISECONDS: Final = 10_000
NO_SHA: Final = "0" * 40
HINTS: Final = {
    "READONLY": "it is a replica: REDIS_URL has to name the primary",
    "MASTERDOWN": "it is a replica: REDIS_URL has to name the primary",
    **dict.fromkeys(
        ("MOVED", "ASK", "CROSSSLOT", "TRYAGAIN", "CLUSTERDOWN"),
        "it is a node of a cluster: set REDIS_KEY_PREFIX to a hash tag such as {echo}: and REDIS_URL to the"
        " node of that slot",
    ),
    "NOAUTH": "set REDIS_PASSWORD",
    "NOPERM": "docs/redis.md has the permissions that a user needs",
}


class Incapable(ErrorReply):
    """The server answered, and not as it has to."""


class Step(NamedTuple):
    """A command, and whether a reply to it is right."""

    name: str
    command: bytes
    is_right: Callable[[Any], bool]
    is_expected: Callable[[ErrorReply], bool] = lambda _: False
    # what is said of a reply that is not right
    complaint: str = ""


class CapabilityCheck:
    """The check for the keys under one prefix; thread safe."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        # no key of these is ever created, so they need no fresh names
        keys = self._name_keys()
        self._recheck = {protocol: _list_recheck(keys, protocol) for protocol in (2, 3)}

    def check(self, wire: Wire) -> ErrorReply | None:
        """Prove a new connection, whose server has the `SCRIPTS` then; raises `ErrorReply`.

        Returns the refusal of a server that invalidates and stores nothing, because its memory is full.
        """
        if not wire.protocol:
            wire.connect()
        keys = self._name_keys()
        commands, scripts = _list_commands(keys, wire.protocol), _list_scripts(keys)
        replies = wire.exchange([step.command for step in (*commands, *scripts)])
        # a command says more than the script that needs it
        refusal = judge(commands, replies[: len(commands)])
        return judge(scripts, replies[len(commands) :]) or refusal

    def recheck(self, wire: Wire) -> None:
        """Prove an old connection again; raises `ErrorReply`."""
        steps = self.list_recheck(wire.protocol)
        judge(steps, wire.exchange([step.command for step in steps]))

    def list_recheck(self, protocol: int) -> list[Step]:
        """Return the steps of `recheck`, for a connection whose replies are read one by one."""
        return self._recheck[protocol]

    def _name_keys(self) -> list[str]:
        """Return a key of each family that nobody else has; the last is that of a version."""
        name = f"capability-check:{secrets.token_hex(8)}"
        return [f"{self._prefix}{family}{name}" for family in FAMILIES]


def judge(steps: Sequence[Step], replies: Iterable[Any]) -> ErrorReply | None:
    """Raise what was refused, in the words of the server; return what is tolerated.

    A refusal names each command that met one.
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
        # what could not be stored cannot be looked at either
        if step.complaint or not refused:
            raise Incapable(step.complaint or f"it answers {step.name} in another way than Redis")
    return refused[0][1] if refused else None


def is_tolerated(error: ErrorReply) -> bool:
    """Say whether the server invalidates although it answered this: its memory is full."""
    # up to version 6 what a script met stands within an error of the script
    return error.code == "OOM" or "-OOM " in str(error)


def describe(error: Exception) -> str:
    """Return the words of an error and what to do about it."""
    hint = HINTS.get(error.code) if isinstance(error, ErrorReply) else None
    return f"{error}; {hint}" if hint else str(error)


def _list_recheck(keys: Sequence[str], protocol: int) -> list[Step]:
    """Return the commands of an invalidation; none of them changes anything, because no key exists."""
    scratch = keys[-1]
    return [
        # a replica that accepts writes loses them when its primary sends it the same keys
        Step("HELLO", pack("HELLO", protocol), _is_primary, complaint="READONLY its role is replica"),
        Step("TIME", pack("TIME"), _is_list),
        Step("SET", pack("SET", scratch, "", "XX", "PX", SCRATCH_MILLISECONDS), _is_none),
        # of one key: each of them counts as a miss in Redis' own statistics
        Step("MGET", pack("MGET", scratch), _is_list),
        Step("UNLINK", pack("UNLINK", *keys), _is_int),
        Step("EVAL", pack("EVAL", "return #KEYS", len(keys), *keys), _is_int),
        Step("EVALSHA", pack("EVALSHA", NO_SHA, 0), _is_none, is_expected=_is_unknown_script),
    ]


def _list_commands(keys: Sequence[str], protocol: int) -> list[Step]:
    """Return each command of the cache by itself; none of them changes anything."""
    scratch = keys[-1]
    return [
        *_list_recheck(keys, protocol),
        Step("MGET", pack("MGET", *keys), _is_list),
        Step("PTTL", pack("PTTL", scratch), _is_int),
        Step("DEL", pack("DEL", scratch), _is_int),
        Step("SCAN", pack("SCAN", 0, "MATCH", scratch, "COUNT", 1), _is_list),
    ]


def _list_scripts(keys: Sequence[str]) -> list[Step]:
    """Return a run of each script, and what has to lie under a key after it."""
    *_, scratch = keys
    one, two = new_token(FENCE_MARK), new_token(FENCE_MARK)
    lease, other = new_token(LEASE_MARK), new_token(LEASE_MARK)

    def run(name: str, script: Script, key: str, arguments: Sequence[Any], *, right: Any) -> Step:
        command = pack("EVAL", script.text, 1, key, *arguments)
        return Step(name, command, lambda reply: bool(reply == right))

    def look(name: str, is_right: Callable[[bytes], bool]) -> Step:
        return Step(name, pack("MGET", scratch), lambda reply: is_right(reply[0] or b""))

    release_all = pack("EVALSHA", RELEASE.sha, len(keys), *keys, NO_TOKEN)
    return [
        run("FENCE", FENCE, scratch, [one, SCRATCH_MILLISECONDS], right=1),
        run("FENCE", FENCE, scratch, [two, SCRATCH_MILLISECONDS], right=1),
        run("RELEASE", RELEASE, scratch, [one], right=1),
        look("SET KEEPTTL", lambda stored: stored.startswith(two)),
        Step("PTTL", pack("PTTL", scratch), lambda left: 0 < left <= SCRATCH_MILLISECONDS),
        run("RELEASE", RELEASE, scratch, [two], right=1),
        run("LEASE", LEASE, scratch, build_request(lease, [scratch], [], b""), right=[GRANTED]),
        run("LEASE", LEASE, scratch, build_request(other, [scratch], [], b""), right=[TAKEN]),
        run("FILL", FILL, scratch, [lease, 1, SCRATCH_MILLISECONDS, "V"], right=1),
        look("FILL", lambda stored: stored == b"V"),
        Step("RELEASE", release_all, lambda reply: bool(reply == len(keys))),
        look("RELEASE", lambda stored: not stored),
    ]


def _is_right(step: Step, reply: Any) -> bool:
    try:
        return step.is_right(reply)
    except (TypeError, IndexError):
        return False


def _is_primary(reply: Any) -> bool:
    return read_greeting(reply).get("role") not in {b"slave", b"replica"}


def _is_unknown_script(error: ErrorReply) -> bool:
    return error.code == "NOSCRIPT"


def _is_list(reply: Any) -> bool:
    return isinstance(reply, list)


def _is_int(reply: Any) -> bool:
    return isinstance(reply, int)


def _is_none(reply: Any) -> bool:
    return reply is None
