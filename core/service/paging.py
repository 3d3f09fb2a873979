"""Reading in bulk: keyset pages, and streams made of them.

Owns the loop of a stream and the check of where a page continues. A list that has an `after`
parameter continues behind that record, which is the last one of the page before; a stream reads
page after page. No connection is held and no statement is open between two pages, so a reader that
is slow, stops, or never comes back costs the database nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from core.errors import InvalidInput
from core.service.inputs import check_id, check_record, check_time, show

T = TypeVar("T")

# Of one statement of a stream: a few megabytes at most, and a round trip that no longer counts.
STREAM_ROWS = 2_000


def list_pages(
    load: Callable[[T | None, int], Sequence[T]], rows: int, after: T | None = None
) -> Iterator[Sequence[T]]:
    """Yield page after page; `load` returns up to so many records that follow one (None: the first)."""
    while page := load(after, rows):
        yield page
        if len(page) < rows:
            return
        after = page[-1]


def stream_pages(load: Callable[[T | None, int], Sequence[T]], after: T | None = None) -> Iterator[T]:
    """Yield the records of page after page, those that follow one (None: all)."""
    for page in list_pages(load, STREAM_ROWS, after):
        yield from page


def check_after(value: Any, kind: type[T], **expected: object) -> T | None:
    """Return the record after which a page begins, None at the beginning.

    `expected` are values that it must have to be of this list, such as its symbol.
    """
    if value is None:
        return None
    record = check_record(value, kind, "after")
    for name, wanted in expected.items():
        if getattr(record, name) != wanted:
            raise InvalidInput(f"after is {show(value)}; give a {kind.__name__} whose {name} is {wanted}")
    return record


def find_place(record: Any) -> tuple[datetime, UUID] | None:
    """Return the place of a record in a list by time of creation, None for the beginning."""
    if record is None:
        return None
    return check_time(record.created_at, "after.created_at"), check_id(record.id, "after.id")
