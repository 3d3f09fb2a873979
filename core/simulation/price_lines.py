"""The lines of a price file as columns of text, some thousand at a time.

Owns parsing and the numbers of lines. Never looks at what a field means.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from core.errors import PriceFileError
from core.simulation.amounts import Integers
from core.simulation.price_layout import Layout
from core.simulation.price_source import Source
from core.simulation.price_values import Mask, to_array

BLOCK_BYTES: Final = 1 << 18
"""What is parsed at once, and more than any line has; larger blocks cost memory and save no time."""


class Misfit(NamedTuple):
    """A line with another number of fields than there are columns."""

    line: int
    fields: int
    text: str


class Batch(NamedTuple):
    """Trimmed text by column, the line that each row starts on, which ones span several, and misfits."""

    columns: dict[int, Any]
    lines: Integers
    spans: Mask
    misfits: list[Misfit]


def read_batches(source: Source, layout: Layout, used: set[int]) -> Iterator[tuple[Batch, int]]:
    """Yield a file's lines below the header, with the columns in `used`, and how many bytes were read.

    Raises `PriceFileError` for text that is no table.
    """
    # a line break inside of quotes in any column moves the lines below it
    places = list(range(len(layout.names))) if layout.has_quotes else sorted(used)
    misfits: list[Misfit] = []

    def note(row: Any) -> str:
        misfits.append(Misfit(row.number, row.actual_columns, row.text))
        return "skip"

    number, inside = layout.skipped_lines + 1, 0
    with source.open() as (data, position), _parsing(source.name, lambda: number + inside):
        for rows in _open(data, layout, places, note):
            numbers = np.arange(number, number + rows.num_rows + len(misfits))
            numbers = numbers[~np.isin(numbers, [misfit.line for misfit in misfits])][: rows.num_rows]
            number = int(numbers[-1]) + 1 if len(numbers) else number
            breaks = _count_breaks(rows) if layout.has_quotes else np.zeros(rows.num_rows, np.int64)
            passed = [
                misfit._replace(line=misfit.line + inside) for misfit in misfits if misfit.line < number
            ]
            misfits[:] = [misfit for misfit in misfits if misfit.line >= number]
            columns = {place: pc.ascii_trim_whitespace(rows.column(n)) for n, place in enumerate(places)}
            yield (
                Batch(columns, numbers + inside + np.cumsum(breaks) - breaks, breaks > 0, passed),
                position(),
            )
            inside += int(breaks.sum())
        if misfits:
            rest = [misfit._replace(line=misfit.line + inside) for misfit in misfits]
            yield Batch({}, np.empty(0, np.int64), np.empty(0, np.bool_), rest), position()


def _open(data: Any, layout: Layout, places: list[int], note: Any) -> Any:
    return pa_csv.open_csv(
        data,
        read_options=pa_csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=[str(place) for place in range(len(layout.names))],
            skip_rows=layout.skipped_lines,
            encoding=layout.encoding,
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=layout.separator,
            newlines_in_values=layout.has_quotes,
            ignore_empty_lines=False,
            invalid_row_handler=note,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={str(place): pa.string() for place in places},
            include_columns=[str(place) for place in places],
            strings_can_be_null=False,
        ),
    )


def _count_breaks(rows: Any) -> Integers:
    counts = [to_array(pc.count_substring(column, "\n")) for column in rows.columns]
    return np.asarray(np.sum(counts, axis=0), np.int64)


@contextmanager
def _parsing(name: str, find_line: Any) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        reason = str(error).split(" (")[0]
        raise PriceFileError(
            f"{name}:{find_line()}: from here on a line is too long, or a quote is never closed ({reason})"
        ) from error
    except UnicodeDecodeError as error:
        raise PriceFileError(
            f"{name}:{find_line()}: not {error.encoding} from here on ({error.reason}); give its --encoding"
        ) from error
