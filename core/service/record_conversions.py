"""Converts records to data frames and to JSON.

Owns the types of the columns of a data frame. pandas is imported with the first data frame, because its
import is slow and most programs do not need it.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from core.errors import InvalidInput
from core.installation import require_extra
from core.records import Record
from core.records.record import KEPT
from core.service.argument_checks import check_bool, check_records, show

if TYPE_CHECKING:
    import pandas as pd

# Times have microseconds, as in the database. The nanosecond types of pandas end in the year 2262.
_DTYPES = {
    Decimal: "float64",
    float: "float64",
    int: "int64",
    bool: "bool",
    datetime: "datetime64[us, UTC]",
    date: "datetime64[us]",
}
_OPTIONAL_DTYPES = {int: "Int64", bool: "boolean"}


class RecordConversions:
    """Calls of the service that convert records. They contact no server."""

    @staticmethod
    def to_frame(
        records: Iterable[Record], *, kind: type[Record] | None = None, exact: bool = False
    ) -> "pd.DataFrame":
        """Return records of one kind as a pandas DataFrame: one row per record, one column per field.

        Amounts are float64, or `Decimal` objects if `exact`. Times are `datetime64[us, UTC]`, session dates
        `datetime64[us]` at midnight, ids `UUID` objects, documents dicts. A whole number that may be None is
        `Int64`. A field of a nested record becomes a column such as `quest.title`. `kind` is the type of the
        records: it defines the columns if there are no records. Raises `InvalidInput`, and `MissingExtra` if
        pandas is not installed.
        """
        require_extra("frames")
        import pandas as pd  # noqa: PLC0415  # imported late, see the module's docstring

        rows, is_exact = list(check_records(records, Record, "records", "record")), check_bool(exact, "exact")
        found = _find_kind(rows, kind)
        columns = {} if found is None else _build_columns(found, rows, is_exact=is_exact)
        return pd.DataFrame(columns)

    @staticmethod
    def to_json(records: Record | Iterable[Record] | None) -> bytes:
        """Return a record, or a list of records, as JSON in UTF-8; None becomes `null`.

        Amounts are strings with all their digits, so that no reader rounds them. Ids are strings, times are
        ISO 8601 in UTC with a Z. Raises `InvalidInput`.
        """
        if records is None or isinstance(records, Record):
            return msgspec.json.encode(records)
        return msgspec.json.encode(list(check_records(records, Record, "records", "record")))


def _find_kind(rows: Sequence[Record], kind: Any) -> type[Record] | None:
    """Return the type of the records, or `kind` if there are none. Raises `InvalidInput` for two types."""
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, Record)):
        raise InvalidInput(f"kind is {show(kind)}; give a type of core.records, such as Portfolio")
    kinds = {type(row) for row in rows} | ({kind} if kind is not None else set())
    if len(kinds) > 1:
        names = sorted(each.__name__ for each in kinds)
        raise InvalidInput(f"records is a list of {' and '.join(names)}; give records of one kind")
    return next(iter(kinds), None)


def _build_columns(
    kind: type[Record], rows: Sequence[Any], *, is_exact: bool, prefix: str = ""
) -> "dict[str, pd.Series[Any]]":
    columns: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        values, name = [getattr(row, field.name) for row in rows], prefix + field.name
        types = set(get_args(field.type)) - {NoneType} or {field.type}
        if len(types) == 1 and isinstance(nested := next(iter(types)), type) and issubclass(nested, Record):
            columns |= _build_columns(nested, values, is_exact=is_exact, prefix=f"{name}.")
        else:
            is_optional = NoneType in get_args(field.type)
            columns[name] = _build_column(values, types, is_optional=is_optional, is_exact=is_exact)
    return columns


def _build_column(
    values: list[Any], types: set[Any], *, is_optional: bool, is_exact: bool
) -> "pd.Series[Any]":
    import pandas as pd  # noqa: PLC0415  # imported late, see the module's docstring

    kind = next(iter(types)) if len(types) == 1 else object
    if (kind is Decimal and is_exact) or (kind is int and not _fit_in_64_bits(values)):
        kind = object
    if kind is Decimal:
        values = [None if value is None else float(value) for value in values]
    if kind not in _DTYPES:
        values = msgspec.to_builtins(values, builtin_types=KEPT)
    names = _OPTIONAL_DTYPES if is_optional and kind in _OPTIONAL_DTYPES else _DTYPES
    # With the dtype None, pandas chooses the dtype of a column of strings. It depends on the release of
    # pandas.
    dtype = None if kind is str and values else names.get(kind, "object")
    return pd.Series(values, dtype=dtype)


def _fit_in_64_bits(values: Iterable[int | None]) -> bool:
    # the volume of a candle is a sum that can exceed 64 bits
    return all(value is None or -(2**63) <= value < 2**63 for value in values)
