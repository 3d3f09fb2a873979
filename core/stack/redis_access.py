"""The Redis user `echo` of the stack, with the commands and keys that it needs.

Owns the rule that docs/redis.md shows. A client that does not sign in may only PING, for the probe of the
container.
"""

import hashlib

USER = "echo"
COMMANDS = "+mget +set +del +unlink +pttl +time +scan +eval +evalsha +client|tracking +info +select"


def build_acl(password: str) -> str:
    """Return the content of the server's `aclfile`; it has a digest of the password, as Redis stores it."""
    digest = hashlib.sha256(password.encode()).hexdigest()
    return f"user default reset on nopass +ping\nuser {USER} reset on #{digest} ~* {COMMANDS}\n"
