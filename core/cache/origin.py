"""The origin of the data of a server: which run of it and which history of replication.

A server that starts from a snapshot, and a replica that becomes the primary before it has heard of
the last changes, have values and versions from before writes that have returned. Nothing else tells
those from current ones, so a value carries the origin under which it was stored, and is good under
no other. Owns how the origin is read. Keeps no connection.

Source: Redis documentation, INFO: `run_id` is new at each start, `master_replid` at each promotion.
"""

import hashlib
import re

from core.cache.codec import ORIGIN_BYTES, UNKNOWN_ORIGIN
from core.cache.wire import Wire, pack

SECTIONS = {"server": b"run_id", "replication": b"master_replid"}


def read_origin(wire: Wire) -> bytes:
    """Return the origin of what is read on a connection.

    It is always the same for a server that does not tell: then a snapshot is not noticed.
    """
    replies = wire.exchange([pack("INFO", section) for section in SECTIONS])
    found = [find_field(reply, name) for reply, name in zip(replies, SECTIONS.values(), strict=True)]
    if not all(found):
        return UNKNOWN_ORIGIN
    return hashlib.blake2b(b" ".join(found), digest_size=ORIGIN_BYTES).digest()


def find_field(reply: object, name: bytes) -> bytes:
    """Return a field of an answer to INFO; nothing when it is missing, or the answer is an error."""
    text = reply.encode() if isinstance(reply, str) else reply
    found = re.search(rb"^" + name + rb":(\w+)", text, re.MULTILINE) if isinstance(text, bytes) else None
    return found[1] if found else b""
