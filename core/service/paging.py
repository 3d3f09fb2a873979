"""Keyset pages: a long result in many short statements, each from where the last one ended."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# Rows per statement of a stream: at most a few megabytes, and enough to make the round trip negligible.
STREAM_ROWS = 2_000


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def list_pages(
    load: Callable[[T | None, int], Sequence[T]], rows: int, after: T | None = None
) -> Iterator[Sequence[T]]:
    """Yield page after page, each loaded by `load(after, rows)`.

    `load` returns up to `rows` records behind the record `after` (None: the first records).
    No connection is held and no statement is open between two pages, so a slow reader costs the
    database nothing.
    """
    while page := load(after, rows):
        yield page
        if len(page) < rows:
            return
        after = page[-1]


def stream_pages(load: Callable[[T | None, int], Sequence[T]], after: T | None = None) -> Iterator[T]:
    """Yield the records behind `after` (None: all), loaded page by page."""
    for page in list_pages(load, STREAM_ROWS, after):
        yield from page
