"""How ids and documents in rows become Python values.

Owns two conversions that psycopg2 leaves to Python code and that a leaderboard needs a hundred
times: a `UUID` parsed by msgspec in C, and an empty document without a parser.
"""

import json
from typing import Any
from uuid import UUID

import msgspec
from psycopg2.extensions import connection, new_type, register_type

UUID_OID = 2950
JSONB_OID = 3802


def _parse_id(text: str | bytes | None, _: object) -> UUID | None:
    return None if text is None else msgspec.convert(text, UUID)


def _parse_document(text: str | bytes | None, _: object) -> Any:
    if text == "{}":
        return {}
    return None if text is None else json.loads(text)


_TYPES = (new_type((UUID_OID,), "UUID", _parse_id), new_type((JSONB_OID,), "JSONB", _parse_document))


def register_types(raw: connection) -> None:
    """Let the rows of one connection have these values."""
    for kind in _TYPES:
        register_type(kind, raw)
