"""The base class of every record, and the immutable form of JSON documents in records.

Owns the conversion of a record to a dict, and the description of a record for pydantic. pydantic is imported
only by a program that uses it with records.
"""

from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin
from uuid import UUID

import msgspec
from frozendict import frozendict

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

# Types that `asdict` leaves unchanged. Other values become a str, int, float, bool, None, dict or tuple.
KEPT = (Decimal, UUID, datetime, date, timedelta)

_NOTHING: frozendict[str, Any] = frozendict()


def freeze(document: Any) -> Any:
    """Return an immutable copy of a JSON value: a dict becomes a `frozendict`, and a list becomes a tuple.

    `frozendict.deepfreeze` does the same for any type, but takes 50 us for an empty document.
    """
    if isinstance(document, dict):
        return frozendict({key: freeze(value) for key, value in document.items()}) if document else _NOTHING
    if isinstance(document, list | tuple):
        return tuple(freeze(item) for item in document)
    return document


class Record(msgspec.Struct, frozen=True):
    """The base class of all records: an immutable value whose attributes have the names of columns."""

    def asdict(self) -> dict[str, Any]:
        """Return the fields as a new dict. Nested records and JSON documents become dicts too.

        Amounts stay `Decimal`, ids `UUID`, times aware `datetime`.
        """
        plain: dict[str, Any] = msgspec.to_builtins(self, builtin_types=KEPT)
        return plain

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields. With this method and `[]`, `dict(record)` and `{**record}` work."""
        return self.__struct_fields__

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        """Describe the record to pydantic, so that it can be the type of a FastAPI response.

        In JSON, amounts and ids are strings, times are ISO 8601 in UTC. In a request, an object with the
        same fields becomes a record.
        """
        from pydantic_core import core_schema as schema  # noqa: PLC0415  # see the module's docstring

        fields = {
            field.name: schema.typed_dict_field(handler.generate_schema(_find_plain_type(field.type)))
            for field in msgspec.structs.fields(cls)
        }
        shape = schema.typed_dict_schema(fields)
        built = schema.no_info_after_validator_function(lambda values: cls(**values), shape)
        return schema.json_or_python_schema(
            built,
            schema.union_schema([schema.is_instance_schema(cls), built]),
            serialization=schema.plain_serializer_function_ser_schema(dict, return_schema=shape),
        )


def _find_plain_type(kind: Any) -> Any:
    """Return the type of a field for pydantic: `dict` in place of `frozendict`, also inside a union."""
    if get_origin(kind) is UnionType:
        return reduce(or_, map(_find_plain_type, get_args(kind)))
    if get_origin(kind) is frozendict:
        return dict[get_args(kind)]  # type: ignore[misc]  # computed for pydantic
    return kind
