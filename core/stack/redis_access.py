"""The ACL of the stack's Redis: the user `echo`, the user of the sentinels, and the sentinels' configuration.

docs/redis.md shows the same rule for `echo`. A client that does not sign in may only send PING, which the
health check of the container needs.
"""

import hashlib
from typing import Final

USER = "echo"
COMMANDS = "+mget +set +del +unlink +pttl +time +scan +eval +evalsha +client|tracking +info +select"

SENTINEL_USER: Final = "sentinel"
"""The user with which sentinels sign in at the servers, and a replica at its primary."""
# the commands that the Redis documentation lists for Sentinel and for replication
_SENTINEL_COMMANDS: Final = (
    "+multi +exec +ping +info +role +publish +subscribe +slaveof +config|rewrite"
    " +client|setname +client|kill +script|kill +psync +replconf"
)
SENTINEL_SERVICE: Final = "echo-markets"
"""The name of the primary in the sentinels' configuration (`sentinel monitor`)."""
SENTINEL_QUORUM: Final = 2  # of three
# longer than the pauses of a process on a busy machine
DOWN_AFTER_MILLISECONDS: Final = 3_000
FAILOVER_MILLISECONDS: Final = 10_000


def build_acl(password: str, *, sentinel_password: str | None = None) -> str:
    """Return the content of the server's `aclfile`, with SHA-256 digests instead of passwords."""
    lines = [
        "user default reset on nopass +ping",
        f"user {USER} reset on #{_digest(password)} ~* {COMMANDS}",
    ]
    if sentinel_password is not None:
        lines.append(
            f"user {SENTINEL_USER} reset on #{_digest(sentinel_password)} allchannels {_SENTINEL_COMMANDS}"
        )
    return "".join(f"{line}\n" for line in lines)


def build_replication(password: str) -> str:
    """Return the lines of a replica's configuration with which it signs in at its primary."""
    return f"masteruser {SENTINEL_USER}\nmasterauth {password}\n"


def build_sentinel(password: str) -> str:
    """Return the configuration of a sentinel; `containers/sentinel.sh` adds its name.

    All use the same password: programs at the sentinels, sentinels at each other and at the servers.
    """
    name = SENTINEL_SERVICE
    lines = [
        "port 26379",
        "dir /data",
        f"requirepass {password}",
        f"sentinel sentinel-pass {password}",
        # use host names: a restarted container may have another IP address
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
