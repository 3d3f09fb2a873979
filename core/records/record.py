"""The base class of every record, and the immutable form of JSON documents in records.

Owns how a record becomes a dict or a part of a pydantic model. pydantic is imported only by a program
that uses it with records.
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

# Types that stay unchanged in a dict; everything else becomes a str, int, float, bool, None, dict or tuple.
KEPT = (Decimal, UUID, datetime, date, timedelta)

_NOTHING: frozendict[str, Any] = frozendict()


def freeze(document: Any) -> Any:
    """Return an immutable copy of a JSON value: mappings as `frozendict`, lists as tuples.

    `frozendict.deepfreeze` does this for any type, but takes 50 us for an empty document.
    """
    if isinstance(document, dict):
        return frozendict({key: freeze(value) for key, value in document.items()}) if document else _NOTHING
    if isinstance(document, list | tuple):
        return tuple(freeze(item) for item in document)
    return document


class Record(msgspec.Struct, frozen=True):
    """An immutable value; its attributes are the columns."""

    def asdict(self) -> dict[str, Any]:
        """Return the fields as a dict that may be changed, nested records and documents as dicts too.

        Amounts stay `Decimal`, ids `UUID`, times aware `datetime`.
        """
        plain: dict[str, Any] = msgspec.to_builtins(self, builtin_types=KEPT)
        return plain

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields; with `[]` it makes `dict(record)` and `{**record}` work."""
        return self.__struct_fields__

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        """Describe the record to pydantic, so that FastAPI takes it as the type of a response.

        Amounts and ids become texts in JSON, times ISO 8601 in UTC. In a request, an object with the same
        fields becomes a record.
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
    """Return the type of a field for pydantic: a dict instead of a frozendict, also in a union."""
    if get_origin(kind) is UnionType:
        return reduce(or_, map(_find_plain_type, get_args(kind)))
    if get_origin(kind) is frozendict:
        return dict[get_args(kind)]  # type: ignore[misc]  # computed for pydantic
    return kind
