"""The origin of a cached value: the run of the Redis server that stored it, and the database timeline.

Defines the parts of an origin. A value is stored with its origin, and is valid only while the server has the
same origin. So a value that a server restores from a snapshot is never served.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from core.cache.codec import ORIGIN_BYTES, UNKNOWN_ORIGIN
from core.cache.connection import RedisConnection, encode_command

# The fields of INFO that are parts of the origin of a cached value, by section of INFO. `run_id` is new after
# each start, `master_replid` after each promotion (Redis documentation, INFO).
ORIGIN_FIELDS: Final = {"server": b"run_id", "replication": b"master_replid"}


def read_origin(connection: RedisConnection) -> bytes:
    """Return the origin of the connection's server: a digest of its run, its replication id and the timeline.

    A server may have old values and versions, because it was started from a snapshot, or because it is a
    replica that was promoted before it had received the last writes. Old values look like current ones; only
    their origin differs. The same is true for values that were read from another timeline of the database. In
    a topology with epochs, the epoch takes the place of the server's fields. If a server does not report
    these fields, old values from a snapshot are not recognized.
    """
    timeline = connection.timeline or b""
    found = [connection.epoch] if connection.epoch else read_server(connection)
    if not all(found) and not timeline:
        return UNKNOWN_ORIGIN
    return digest_origin([*found, timeline])


def read_server(connection: RedisConnection) -> list[bytes]:
    """Return `run_id` and `master_replid` of the server. A field that is not reported is empty."""
    replies = connection.exchange([encode_command("INFO", section) for section in ORIGIN_FIELDS])
    return [find_field(reply, name) for reply, name in zip(replies, ORIGIN_FIELDS.values(), strict=True)]


def digest_origin(parts: Sequence[bytes]) -> bytes:
    """Return the origin that is made of these parts: their digest, `ORIGIN_BYTES` long."""
    return hashlib.blake2b(b" ".join(parts), digest_size=ORIGIN_BYTES).digest()


def find_field(reply: object, name: bytes) -> bytes:
    """Return a field of a reply to INFO. It is empty if it is missing or the reply is an error."""
    text = reply.encode() if isinstance(reply, str) else reply
    found = re.search(rb"^" + name + rb":(\w+)", text, re.MULTILINE) if isinstance(text, bytes) else None
    return found[1] if found else b""
