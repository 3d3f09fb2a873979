"""The text of a price file: opening, decoding and splitting it into records.

Owns CSV, gzip, encodings and line numbers. Never looks at what a field means;
that is `price_rows`.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from core.errors import PriceFileError

BATCH_LINES = 2_000  # stays in the processor's cache: 50,000 take twice as long a line
LINE_LIMIT = 65_536  # characters: longer lines are cut, so that no file can fill the memory
_GZIP_MAGIC = b"\x1f\x8b"
_UNREADABLE = (OSError, EOFError, zlib.error)


class RecordBatch(NamedTuple):
    """Records of one file by column, with the line that each one starts on.

    `misfits` are the lines and field counts of records that have more or fewer fields
    than the header and are in no column. `swallowed` holds the lines of records that
    run over several lines, which is legal inside quotes but is usually a quote that
    was never closed.
    """

    lines: Sequence[int]
    columns: Sequence[Sequence[str]]
    misfits: Sequence[tuple[int, int]] = ()
    swallowed: frozenset[int] = frozenset()


class PriceFile:
    """An open price file: `header`, then `batches()`; `position` of `size` bytes were read."""

    def __init__(self, path: Path, raw: BinaryIO, text: IO[str]) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._raw = raw
        self._lines = iter(partial(text.readline, LINE_LIMIT), "")
        self._next_line = 1
        header = self._take(1)
        if not header:
            raise PriceFileError(f"{path} is empty; it needs a header and one row a trading day")
        records, _ = self._parse(header)
        self.header = records[0]

    @property
    def position(self) -> int:
        """How many bytes of the file, compressed or not, were read."""
        return self._raw.tell() if self._raw.seekable() else 0

    def batches(self) -> Iterator[RecordBatch]:
        """Yield the records after the header, a few thousand at a time, without blank ones."""
        while lines := self._take(BATCH_LINES):
            first = self._next_line
            columns = _split_plain(lines, len(self.header))
            if columns is not None:
                self._next_line += len(lines)
                yield RecordBatch(range(first, self._next_line), columns)
            else:
                records, ends = self._parse(lines)
                yield _arrange(records, first, ends, len(self.header))

    def fail(self, line: int, reason: str) -> PriceFileError:
        """Return the error for one line of this file."""
        return PriceFileError(f"{self.path}:{line}: {reason}")

    def _parse(self, lines: list[str]) -> tuple[list[list[str]], list[int]]:
        """Return the records that begin on these lines, and the line that each ends on."""
        # a quote that is open after the last line goes on in the file
        reader = csv.reader(chain(lines, self._lines))
        records, ends = [], []
        with self._readable():
            while reader.line_num < len(lines):
                records.append(next(reader))
                ends.append(self._next_line + reader.line_num - 1)
        self._next_line = ends[-1] + 1
        return records, ends

    def _take(self, count: int) -> list[str]:
        with self._readable():
            return list(islice(self._lines, count))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except csv.Error as error:
            raise self.fail(self._next_line, f"no CSV records from here on ({error})") from error
        except UnicodeDecodeError as error:
            raise PriceFileError(
                f"{self.path} is not UTF-8 text ({error.reason}); save it as UTF-8"
            ) from error
        except _UNREADABLE as error:
            raise _unreadable(self.path, error) from error


def _split_plain(lines: list[str], width: int) -> list[list[str]] | None:
    """Split lines into columns, or return None when that takes more than looking for commas.

    Five times as fast as the CSV reader, and the same wherever no quote is.
    """
    text = "".join(lines)
    if '"' in text or set(map(str.count, lines, repeat(","))) != {width - 1}:
        return None
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    fields = text.replace("\n", ",").split(",")
    columns = [fields[place::width] for place in range(width)]
    # a record that begins with an empty field may be blank as a whole
    return columns if len(fields) == len(lines) * width and all(columns[0]) else None


def _arrange(records: list[list[str]], first: int, ends: list[int], width: int) -> RecordBatch:
    starts = [first, *(end + 1 for end in ends[:-1])]
    # a spreadsheet writes blank rows as ",,,": they hold no price either
    numbered = [
        (line, record) for line, record in zip(starts, records, strict=True) if any(map(str.strip, record))
    ]
    fitting = [(line, record) for line, record in numbered if len(record) == width]
    return RecordBatch(
        lines=[line for line, _ in fitting],
        columns=list(zip(*(record for _, record in fitting), strict=True)),
        misfits=[(line, len(record)) for line, record in numbered if len(record) != width],
        swallowed=frozenset(line for line, end in zip(starts, ends, strict=True) if end > line),
    )


@contextmanager
def open_price_file(path: Path) -> Iterator[PriceFile]:
    """Open a CSV file, gzipped or not.

    Raises `PriceFileError` when it is missing, not a file, not gzip although it is
    named so, or empty; reading raises it for broken gzip, text or CSV.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    # newline="": the CSV reader must see line ends inside quotes as they are
    with raw, io.TextIOWrapper(_decompress(path, raw), encoding="utf-8-sig", newline="") as text:
        yield PriceFile(path, raw, text)


def _decompress(path: Path, raw: io.BufferedReader) -> gzip.GzipFile | io.BufferedReader:
    zipped = raw.peek(2)[:2] == _GZIP_MAGIC
    if path.suffix.lower() == ".gz" and not zipped and path.stat().st_size:
        raise PriceFileError(f"{path} is not gzip although its name ends in .gz; rename it")
    return gzip.open(raw) if zipped else raw


def _unreadable(path: Path, error: Exception) -> PriceFileError:
    if isinstance(error, FileNotFoundError):
        return PriceFileError(f"{path} does not exist")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return PriceFileError(f"{path} cannot be read ({reason.lower()})")
