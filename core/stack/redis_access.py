"""The users of the stack's Redis servers and sentinels, and the sentinels' configuration.

The stack's programs sign in as the user `echo`; docs/redis.md shows the access rules of this user. A client
that does not sign in can only send PING, for the health checks of the containers.
"""

import hashlib
from typing import Final

USER = "echo"
_ANONYMOUS: Final = "user default reset on nopass +ping"
COMMANDS = "+mget +set +del +unlink +pttl +time +scan +eval +evalsha +client|tracking +info +select"

SENTINEL_USER: Final = "sentinel"
"""The user name with which sentinels and replicas sign in at Redis servers and at other sentinels."""
_ASK_SENTINEL: Final = "+sentinel|get-master-addr-by-name"
# the commands that the documentation of Redis lists for the users of sentinels and replicas
_OF_SENTINELS: Final = (
    "+multi +exec +ping +info +role +publish +subscribe +slaveof +config|rewrite"
    " +client|setname +client|kill +script|kill +psync +replconf"
)
SENTINEL_SERVICE: Final = "echo-markets"
"""The name of the primary in the sentinels' configuration (`sentinel monitor`)."""
SENTINEL_QUORUM: Final = 2  # how many of the three sentinels must agree that the primary is down
# A sentinel regards the primary as down after this time without an answer. The time is longer than a busy
# machine usually pauses a process.
DOWN_AFTER_MILLISECONDS: Final = 3_000
FAILOVER_MILLISECONDS: Final = 10_000


def build_acl(password: str, *, sentinel_password: str | None = None) -> str:
    """Return the content of a Redis server's `aclfile`, with SHA-256 digests instead of passwords."""
    lines = [
        _ANONYMOUS,
        f"user {USER} reset on #{_digest(password)} ~* {COMMANDS}",
    ]
    if sentinel_password is not None:
        lines.append(
            f"user {SENTINEL_USER} reset on #{_digest(sentinel_password)} allchannels {_OF_SENTINELS}"
        )
    return "".join(f"{line}\n" for line in lines)


def build_replication(password: str) -> str:
    """Return the configuration lines with which a replica signs in at its primary."""
    return f"masteruser {SENTINEL_USER}\nmasterauth {password}\n"


def list_sentinel_users(password: str, *, program_password: str) -> list[str]:
    """Return the configuration lines of a sentinel for its users, and for its sign-in at other sentinels.

    The user `echo` can only ask a sentinel for the address of the primary.
    """
    return [
        _ANONYMOUS,
        f"user {USER} reset on #{_digest(program_password)} {_ASK_SENTINEL}",
        f"user {SENTINEL_USER} reset on #{_digest(password)} allchannels allcommands",
        f"sentinel sentinel-user {SENTINEL_USER}",
        f"sentinel sentinel-pass {password}",
    ]


def build_sentinel(password: str, *, program_password: str) -> str:
    """Return the configuration of a sentinel. `containers/sentinel.sh` adds the sentinel's host name and id.

    `password` is that of SENTINEL_USER at all sentinels and Redis servers. `program_password` is that of the
    user `echo` at the sentinel.
    """
    name = SENTINEL_SERVICE
    lines = [
        "port 26379",
        "dir /data",
        *list_sentinel_users(password, program_password=program_password),
        # use host names, because a restarted container may have another IP address
        "sentinel resolve-hostnames yes",
        "sentinel announce-hostnames yes",
        f"sentinel monitor {name} redis 6379 {SENTINEL_QUORUM}",
        f"sentinel auth-user {name} {SENTINEL_USER}",
        f"sentinel auth-pass {name} {password}",
        f"sentinel down-after-milliseconds {name} {DOWN_AFTER_MILLISECONDS}",
        f"sentinel failover-timeout {name} {FAILOVER_MILLISECONDS}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
