"""The origin of a value: which run of which server stored it, and for which timeline of the database.

Owns the parts of an origin. A value is stored with its origin and is valid only while the server has the same
origin, so values that a server restores from a snapshot are never served.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from core.cache.codec import ORIGIN_BYTES, UNKNOWN_ORIGIN
from core.cache.connection import RedisConnection, encode_command

# The fields of INFO that are parts of the origin: `run_id` is new after each start, `master_replid` after
# each promotion (Redis documentation, INFO).
ORIGIN_FIELDS: Final = {"server": b"run_id", "replication": b"master_replid"}


def read_origin(connection: RedisConnection) -> bytes:
    """Return the origin of the data: a digest of the server's run, its replication id, and the timeline.

    A server that starts from a snapshot, or a replica that is promoted before it has the last changes, has
    values and versions from before acknowledged writes. They look like current ones, and only their origin
    shows that they are not. The same holds for values that were read from another timeline of the database.
    If a server does not report these fields, values from its snapshot are not noticed. In a topology with
    epochs, the epoch replaces the fields of the server.
    """
    timeline = connection.timeline or b""
    found = [connection.epoch] if connection.epoch else read_server(connection)
    if not all(found) and not timeline:
        return UNKNOWN_ORIGIN
    return digest_origin([*found, timeline])


def read_server(connection: RedisConnection) -> list[bytes]:
    """Return `run_id` and `master_replid` of the server, each empty if the server does not report it."""
    replies = connection.exchange([encode_command("INFO", section) for section in ORIGIN_FIELDS])
    return [find_field(reply, name) for reply, name in zip(replies, ORIGIN_FIELDS.values(), strict=True)]


def digest_origin(parts: Sequence[bytes]) -> bytes:
    """Return the origin for these parts: a digest of `ORIGIN_BYTES` bytes."""
    return hashlib.blake2b(b" ".join(parts), digest_size=ORIGIN_BYTES).digest()


def find_field(reply: object, name: bytes) -> bytes:
    """Return a field of a reply to INFO; empty when it is missing, or the reply is an error."""
    text = reply.encode() if isinstance(reply, str) else reply
    found = re.search(rb"^" + name + rb":(\w+)", text, re.MULTILINE) if isinstance(text, bytes) else None
    return found[1] if found else b""
