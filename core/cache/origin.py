"""The origin of a value: which run of which server stored it, and for which timeline of the database.

Owns what an origin is made of. A value is stored with its origin and is valid only under it, so what a server
brings back from a snapshot is never served.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from core.cache.codec import ORIGIN_BYTES, UNKNOWN_ORIGIN
from core.cache.connection import RedisConnection, encode_command

# The fields of INFO that make up the origin of a server's data: `run_id` is new at each start,
# `master_replid` at each promotion (Redis documentation, INFO).
ORIGIN_FIELDS: Final = {"server": b"run_id", "replication": b"master_replid"}


def read_origin(connection: RedisConnection) -> bytes:
    """Return the origin of the data: the run of the server, its replication history, and the timeline.

    A server that starts from a snapshot, or a replica that is promoted before it has the last changes, has
    values and versions from before acknowledged writes. They look like current ones, so a value is stored
    with its origin and is valid only under it. The same holds for what was read from another timeline of
    the database. The snapshot of a server that does not report these fields is not noticed. Where there
    are epochs, the epoch stands for the server.
    """
    timeline = connection.timeline or b""
    found = [connection.epoch] if connection.epoch else read_server(connection)
    if not all(found) and not timeline:
        return UNKNOWN_ORIGIN
    return digest_origin([*found, timeline])


def read_server(connection: RedisConnection) -> list[bytes]:
    """Return the run of the server and its replication history, each empty when it does not report it."""
    replies = connection.exchange([encode_command("INFO", section) for section in ORIGIN_FIELDS])
    return [find_field(reply, name) for reply, name in zip(replies, ORIGIN_FIELDS.values(), strict=True)]


def digest_origin(parts: Sequence[bytes]) -> bytes:
    """Return the origin that consists of these parts, in as many bytes as each value has for it."""
    return hashlib.blake2b(b" ".join(parts), digest_size=ORIGIN_BYTES).digest()


def find_field(reply: object, name: bytes) -> bytes:
    """Return a field of a reply to INFO; empty when it is missing, or the reply is an error."""
    text = reply.encode() if isinstance(reply, str) else reply
    found = re.search(rb"^" + name + rb":(\w+)", text, re.MULTILINE) if isinstance(text, bytes) else None
    return found[1] if found else b""
