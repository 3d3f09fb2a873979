"""Keyset pagination: reads a long result in many short statements.

Each statement begins after the last row of the statement before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# Number of rows that a stream reads with one statement. They take a few megabytes at most, and reading them
# takes much longer than the round trip.
STREAM_ROWS = 2_000


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last list may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def list_pages(
    load: Callable[[T | None, int], Sequence[T]], rows: int, after: T | None = None
) -> Iterator[Sequence[T]]:
    """Yield page after page, each from a call of `load(after, rows)`.

    `load` returns up to `rows` records that follow the record `after` (None: the first records). Between two
    pages no connection is held and no statement is open, so a slow reader costs the database nothing.
    """
    while page := load(after, rows):
        yield page
        if len(page) < rows:
            return
        after = page[-1]


def stream_pages(load: Callable[[T | None, int], Sequence[T]], after: T | None = None) -> Iterator[T]:
    """Yield the records that follow `after` (None: all records). `list_pages` loads them page by page."""
    for page in list_pages(load, STREAM_ROWS, after):
        yield from page
