"""Opens price files, detects their encodings, and splits their text into columns.

Reads files, folders, archives and standard input, compressed or not, and keeps line numbers. Does not
interpret fields.
"""

import bz2
import codecs
import gzip
import lzma
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from core.errors import PriceFileError
from core.price_import.numbers_and_dates import Mask, to_array
from core.price_import.vocabulary import SUFFIXES
from core.simulation.amounts import Integers

SAMPLE_BYTES: Final = 1 << 15
"""Number of bytes at the start of a file from which its format is detected: several hundred lines."""

BLOCK_BYTES: Final = 1 << 18
"""Number of bytes that the CSV parser reads at once; a longer line is refused.

Larger blocks need more memory and save no time.
"""

STANDARD_INPUT: Final = Path("-")
_TABLES: Final = frozenset(f".{suffix}" for suffix in SUFFIXES.split("|"))
_PACKED: Final[dict[bytes, Callable[[IO[bytes]], IO[bytes]]]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]  # its modes are overloads
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_NO_TABLE: Final = {
    b"PK\x03\x04": "a zip archive or a workbook inside another archive; unpack it",
    b"PAR1": "a Parquet file; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"%pdf": "a PDF document; save its table as CSV",
    b"sqlite format 3": "an SQLite database; export the table as CSV",
    b"{": "JSON, not a table; save it as CSV (of a download: see what it says)",
    b"[": "JSON, not a table; save it as CSV",
    b"<!": "a web page, not a table; download the file itself",
    b"<html": "a web page, not a table; download the file itself",
    b"<?xml": "XML, not a table; save it as CSV",
}
_UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    RuntimeError,  # zipfile raises it for an encrypted member
    NotImplementedError,  # zipfile raises it for an unsupported compression method
)
_BOMS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # compared before UTF-16, because it begins with the BOM of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Source:
    """One price file: `name` is its name in messages, `size` its size in bytes before it is decompressed."""

    name: str
    size: int
    _open: Callable[[], IO[bytes]]

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
        """Yield the decompressed bytes, and a function that returns how many bytes of `size` were read.

        Raises `PriceFileError` when the file cannot be read or decompressed, also inside the `with` block.
        """
        with _readable(self.name), self._open() as raw:
            start = raw.read(8)
            raw.seek(0)
            unpack = next((opener for mark, opener in _PACKED.items() if start.startswith(mark)), None)
            with unpack(raw) if unpack else nullcontext(raw) as data:
                yield data, raw.tell


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise PriceFileError(f"{name} does not exist") from error
    except _UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PriceFileError(f"{name} cannot be read ({reason.lower()})") from error


@contextmanager
def open_sources(paths: Sequence[Path]) -> Iterator[tuple[list[Source], list[str]]]:
    """Yield the price files that `paths` name or contain, and the names of files that are left out.

    A path is a file, a folder, an archive or STANDARD_INPUT. In a folder or an archive, files without the
    suffix of a table, such as .csv, are left out. Standard input is stored in a temporary file, because files
    are read twice. Raises `PriceFileError` when a path does not exist or contains no table.
    """
    sources: list[Source] = []
    left_out: list[str] = []
    with ExitStack() as stack:
        for path in paths:
            if path == STANDARD_INPUT:
                file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="prices-"))
                with _readable("standard input"):
                    shutil.copyfileobj(sys.stdin.buffer, file)
                    file.flush()
                found = _list_file(Path(file.name), "standard input", left_out)
            else:
                found = _list_path(path, left_out)
            if not found:
                raise PriceFileError(
                    f"{path} holds no table (.csv, .txt, .tsv, packed or not); name the files"
                )
            sources += found
        yield sources, left_out


def _list_path(path: Path, left_out: list[str]) -> list[Source]:
    with _readable(str(path)):
        if not path.is_dir():
            return _list_file(path, str(path), left_out)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        left_out += [str(file) for file in files if not _is_table(file.relative_to(path))]
        tables = [file for file in files if _is_table(file.relative_to(path))]
        return [source for file in tables for source in _list_file(file, str(file), left_out)]


def _list_file(path: Path, name: str, left_out: list[str]) -> list[Source]:
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return [Source(name, path.stat().st_size, lambda: path.open("rb"))]
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    if any(member.filename == "[Content_Types].xml" for member in members):
        raise PriceFileError(f"{name} is an Excel workbook; save the sheet as CSV")
    tables = [member for member in members if _is_table(Path(member.filename))]
    left_out += [f"{name}/{member.filename}" for member in members if member not in tables]
    return [
        Source(f"{name}/{member.filename}", member.file_size, _open_member(path, member)) for member in tables
    ]


def _open_member(path: Path, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: zipfile.ZipFile(path).open(member)


def _is_table(path: Path) -> bool:
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not is_hidden and path.suffix.lower() in _TABLES


@dataclass(frozen=True)
class Text:
    """The encoding of a file, and its first bytes.

    `is_guess` is true if the file is not valid UTF-8, and nothing names another encoding. `has_quotes` is
    true if the file contains a double quote.
    """

    encoding: str
    is_guess: bool
    sample: bytes
    has_quotes: bool

    def decode(self, encoding: str) -> str:
        """Return the first lines as text. If the last line may be incomplete, it is left out."""
        text = self.sample.decode(encoding, errors="replace")
        if len(self.sample) == SAMPLE_BYTES:
            text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
        return text


def scan_text(source: Source, encoding: str | None) -> Text:
    """Read a file completely, and find its encoding.

    The encoding is `encoding`, else the encoding of the BOM, else UTF-16 if the bytes look like it, else
    UTF-8 if all bytes are valid, else Windows-1252 as a guess. Raises `PriceFileError` when the file is
    empty, is no table, or is not valid in `encoding` or in the encoding of its BOM.
    """
    with source.open() as (data, _):
        sample = piece = data.read(SAMPLE_BYTES)
        _check_is_table(source.name, sample)
        known = encoding or next((name for mark, name in _BOMS.items() if sample.startswith(mark)), None)
        known = known or _find_utf16(sample)
        decoder = codecs.getincrementaldecoder(known or "utf-8")()
        has_quotes, is_decoded, line = False, True, 1
        while True:
            has_quotes = has_quotes or b'"' in piece
            try:
                line += decoder.decode(piece, final=not piece).count("\n") if is_decoded else 0
            except UnicodeDecodeError as error:
                if known:
                    raise _wrong_encoding(source.name, line, known, error) from error
                is_decoded = False
            if not piece:
                break
            piece = data.read(1 << 20)
    text = Text(known or ("utf-8" if is_decoded else "cp1252"), not (known or is_decoded), sample, has_quotes)
    if not text.decode(text.encoding).strip("\ufeff \r\n\t"):
        raise PriceFileError(f"{source.name} is empty; it needs a header and one row a trading day")
    return text


def _wrong_encoding(name: str, line: int, encoding: str, error: UnicodeDecodeError) -> PriceFileError:
    return PriceFileError(f"{name}:{line}: not {encoding} from here on ({error.reason}); give its --encoding")


def _find_utf16(sample: bytes) -> str | None:
    """Return the byte order of UTF-16 as the name of an encoding, or None if the text is not UTF-16.

    Works without a BOM: every other byte of ASCII text in UTF-16 is zero.
    """
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) * 4 < len(sample):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _check_is_table(name: str, sample: bytes) -> None:
    if sample[257:262] == b"ustar":
        raise PriceFileError(f"{name} is a tar archive; unpack it and name the folder")
    start = sample.removeprefix(codecs.BOM_UTF8).lstrip()[:16]
    for mark, reason in _NO_TABLE.items():
        if mark in {start[: len(mark)], start[: len(mark)].lower()}:
            raise PriceFileError(f"{name} is {reason}")


class WrongWidth(NamedTuple):
    """A line with more or fewer fields than the file has columns."""

    line: int
    fields: int
    text: str


class Batch(NamedTuple):
    """Rows that follow each other in a file.

    `columns` has the trimmed texts by column number. `lines` has the line number at which each row begins.
    `spans` is a mask of the rows with several lines. `wrong_width` has the lines with a wrong number of
    fields; they are not in `columns`.
    """

    columns: dict[int, Any]
    lines: Integers
    spans: Mask
    wrong_width: list[WrongWidth]


@dataclass(frozen=True)
class TextFormat:
    """How the text of a file is split into fields.

    `skipped_lines` is the number of lines above the first row, `width` the number of columns. `has_quotes`
    says that fields may be in double quotes.
    """

    encoding: str
    separator: str
    skipped_lines: int
    width: int
    has_quotes: bool


def read_batches(source: Source, text: TextFormat, used: Iterable[int]) -> Iterator[tuple[Batch, int]]:
    """Yield batches of rows with at least the columns in `used`, and the number of bytes read so far.

    Raises `PriceFileError` for a line that is too long, a quote that is not closed, or a wrong encoding.
    """
    # if the file has quotes, read all columns: a line break in any quoted field changes later line numbers
    columns = list(range(text.width)) if text.has_quotes else sorted(set(used))
    wrong: list[WrongWidth] = []

    def record_wrong_width(row: Any) -> str:
        wrong.append(WrongWidth(row.number, row.actual_columns, row.text))
        return "skip"

    row, breaks_before = text.skipped_lines + 1, 0
    with source.open() as (data, position):
        try:
            for rows in _open_csv(data, text, columns, record_wrong_width):
                # Count the rows here: pyarrow yields valid rows without numbers. `wrong` may already have
                # rows of the next block, because pyarrow reads one block ahead.
                numbers = np.arange(row, row + rows.num_rows + len(wrong))
                numbers = numbers[~np.isin(numbers, [line.line for line in wrong])][: rows.num_rows]
                row = int(numbers[-1]) + 1 if len(numbers) else row
                breaks = np.zeros(rows.num_rows, np.int64)
                for column in rows.columns if text.has_quotes else ():
                    breaks += to_array(pc.count_substring(column, "\n"))
                passed = [line._replace(line=line.line + breaks_before) for line in wrong if line.line < row]
                wrong[:] = [line for line in wrong if line.line >= row]
                texts = {place: pc.ascii_trim_whitespace(rows.column(n)) for n, place in enumerate(columns)}
                lines = numbers + breaks_before + np.cumsum(breaks) - breaks
                yield Batch(texts, lines, breaks > 0, passed), position()
                breaks_before += int(breaks.sum())
        except pa.ArrowInvalid as error:
            reason = str(error).split(" (")[0]
            raise PriceFileError(
                f"{source.name}:{row + breaks_before}: from here on a line is too long,"
                f" or a quote is never closed ({reason})"
            ) from error
        except UnicodeDecodeError as error:
            raise _wrong_encoding(source.name, row + breaks_before, text.encoding, error) from error
        if wrong:
            rest = [line._replace(line=line.line + breaks_before) for line in wrong]
            yield Batch({}, np.empty(0, np.int64), np.empty(0, np.bool_), rest), position()


def _open_csv(
    data: IO[bytes], text: TextFormat, columns: list[int], on_wrong_width: Callable[[Any], str]
) -> Any:
    return pa_csv.open_csv(
        data,
        read_options=pa_csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=[str(place) for place in range(text.width)],
            skip_rows=text.skipped_lines,
            encoding=text.encoding,
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=text.separator,
            newlines_in_values=text.has_quotes,
            ignore_empty_lines=False,
            invalid_row_handler=on_wrong_width,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={str(place): pa.string() for place in columns},
            include_columns=[str(place) for place in columns],
            strings_can_be_null=False,
        ),
    )
