"""Where price files come from: files, folders, archives and standard input, packed or not.

Owns finding, opening and unpacking them, and the encoding of their text. Never looks at what a
field means.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from core.errors import PriceFileError
from core.simulation.price_names import SUFFIXES

SAMPLE_BYTES: Final = 1 << 15
"""How much of a file is looked at to understand it: some hundred lines."""

STANDARD_INPUT: Final = Path("-")
_TABLES: Final = frozenset(f".{suffix}" for suffix in SUFFIXES.split("|"))
_PACKED: Final[dict[bytes, Callable[[IO[bytes]], IO[bytes]]]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]  # its modes are overloads
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_NO_TABLE: Final = {
    b"PK\x03\x04": "a zip archive or a workbook inside of another archive; unpack it",
    b"PAR1": "a Parquet file; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"%PDF": "a PDF document; save its table as CSV",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
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
    RuntimeError,
    NotImplementedError,
)
# In the order in which they are tried; the second one of a pair knows no error.
_BOMS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Source:
    """One price file: `name` for people, `size` in bytes as it is stored, and how to open it."""

    name: str
    size: int
    _open: Callable[[], IO[bytes]]

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
        """Open the file; yields its unpacked bytes, and how many of its size were read so far.

        Raises `PriceFileError`, also for what cannot be read or unpacked inside of the block.
        """
        with readable(self.name), self._open() as raw:
            start = raw.read(8)
            raw.seek(0)
            unpack = next((opener for mark, opener in _PACKED.items() if start.startswith(mark)), None)
            with unpack(raw) if unpack else nullcontext(raw) as data:
                yield data, raw.tell


@dataclass(frozen=True)
class Text:
    """What a scan of a whole file found: its encoding, perhaps a guess, its first bytes, and quotes."""

    encoding: str
    is_guess: bool
    sample: bytes
    has_quotes: bool

    def decode(self, encoding: str) -> str:
        """Return the first lines in an encoding; of a longer file without the last one, which may be cut."""
        text = self.sample.decode(encoding, errors="replace")
        if len(self.sample) == SAMPLE_BYTES:
            text = text[: max(text.rfind("\n"), text.rfind("\r")) + 1]
        return text


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn errors of reading and unpacking into one that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise PriceFileError(f"{name} does not exist") from error
    except _UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PriceFileError(f"{name} cannot be read ({reason.lower()})") from error


@contextmanager
def open_sources(paths: Sequence[Path]) -> Iterator[tuple[list[Source], list[str]]]:
    """Find the price files of paths, folders and archives, and the names of what is left out.

    In a folder or an archive only files with the suffix of a table count. Standard input is kept
    as a file, because files are read twice. Raises `PriceFileError` when a path is not there or
    holds no table.
    """
    sources: list[Source] = []
    left_out: list[str] = []
    with ExitStack() as kept:
        for path in paths:
            if path == STANDARD_INPUT:
                file = kept.enter_context(tempfile.NamedTemporaryFile(prefix="prices-"))
                with readable("standard input"):
                    shutil.copyfileobj(sys.stdin.buffer, file)
                    file.flush()
                found, others = _list_path(Path(file.name), "standard input")
            else:
                found, others = _list_path(path, str(path))
            if not found:
                raise PriceFileError(
                    f"{path} holds no table (.csv, .txt, .tsv, packed or not); name the files"
                )
            sources += found
            left_out += others
        yield sources, left_out


def _list_path(path: Path, name: str) -> tuple[list[Source], list[str]]:
    with readable(name):
        if not path.is_dir():
            return _list_file(path, name)
        found, left_out = [], []
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            if _is_table(file.relative_to(path)):
                inside, others = _list_file(file, str(file))
                found += inside
                left_out += others
            else:
                left_out.append(str(file))
    return found, left_out


def _list_file(path: Path, name: str) -> tuple[list[Source], list[str]]:
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return [Source(name, path.stat().st_size, lambda: path.open("rb"))], []
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    if any(member.filename == "[Content_Types].xml" for member in members):
        raise PriceFileError(f"{name} is an Excel workbook; save the sheet as CSV")
    tables = [member for member in members if _is_table(Path(member.filename))]
    found = [
        Source(f"{name}/{member.filename}", member.file_size, _open_member(path, member)) for member in tables
    ]
    return found, [f"{name}/{member.filename}" for member in members if member not in tables]


def _open_member(path: Path, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: zipfile.ZipFile(path).open(member)


def _is_table(path: Path) -> bool:
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not is_hidden and path.suffix.lower() in _TABLES


def scan_text(source: Source, encoding: str | None) -> Text:
    """Read a file once to learn its encoding: given, by its mark, UTF-8, else Windows-1252.

    Raises `PriceFileError` when it is empty, no table, or not in the given encoding.
    """
    with source.open() as (data, _):
        sample = data.read(SAMPLE_BYTES)
        _refuse_no_table(source.name, sample)
        known = encoding or next((name for mark, name in _BOMS.items() if sample.startswith(mark)), None)
        known = known or _find_utf16(sample)
        has_quotes, is_utf8, piece = False, True, sample
        decoder = codecs.getincrementaldecoder(known or "utf-8")()
        line = 1
        while True:
            has_quotes = has_quotes or b'"' in piece
            try:
                line += decoder.decode(piece, final=not piece).count("\n") if is_utf8 else 0
            except UnicodeDecodeError as error:
                if known:
                    raise PriceFileError(
                        f"{source.name}:{line}: not {known} from here on ({error.reason});"
                        " give its --encoding"
                    ) from error
                is_utf8 = False
            if not piece:
                break
            piece = data.read(1 << 20)
    text = Text(known or ("utf-8" if is_utf8 else "cp1252"), not (known or is_utf8), sample, has_quotes)
    if not text.decode(text.encoding).strip("\ufeff \r\n\t"):
        raise PriceFileError(f"{source.name} is empty; it needs a header and one row a trading day")
    return text


def _find_utf16(sample: bytes) -> str | None:
    """Recognize UTF-16 without a mark: every other byte of plain text is zero."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) * 4 < len(sample):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _refuse_no_table(name: str, sample: bytes) -> None:
    if sample[257:262] == b"ustar":
        raise PriceFileError(f"{name} is a tar archive; unpack it and name the folder")
    start = sample.removeprefix(codecs.BOM_UTF8).lstrip()[:16]
    for mark, reason in _NO_TABLE.items():
        if start.startswith(mark) or start.lower().startswith(mark):
            raise PriceFileError(f"{name} is {reason}")
