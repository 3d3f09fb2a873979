"""Price files from folders, archives and standard input, compressed and in any encoding."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.errors import PriceFileError
from core.price_import.reading import read_prices
from core.price_import.sources import BLOCK_BYTES, SAMPLE_BYTES
from tests.price_files import AS_GIVEN, NOW, describe, list_days, list_rows, read, refuse, write_rows

CONTENT = write_rows("Date,Open,High,Low,Close,Volume", "{d},{o},{h},{l},{c},{v}").encode()


def zip_files(**files: bytes) -> bytes:
    """Return a zip archive of these files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zip", lambda content: zip_files(**{"data/AAPL.csv": content})),
        (".zip", lambda content: zip_files(**{"AAPL.csv.gz": gzip.compress(content)})),
        ("", gzip.compress),
    ],
)
def test_compressed_files_are_decompressed(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    """Compression is found by the content, also without a suffix; the inner file name is the symbol."""
    table = read(tmp_path / f"AAPL.csv{suffix}", pack(CONTENT)).table
    assert (table.symbols, list_days(table)) == (("AAPL",), AS_GIVEN)


def test_a_folder_is_read_with_subfolders_and_archives(tmp_path: Path) -> None:
    """All tables in a folder, its subfolders and archives are read; other files are left out and listed."""
    for name in ("AAPL.csv", "more/ibm.txt", "more/.hidden.csv", "README.md", "chart.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CONTENT)
    (tmp_path / "rest.zip").write_bytes(
        zip_files(**{"MSFT.csv": CONTENT, "LICENSE": b"x", "__MACOSX/MSFT.csv": b"x"})
    )
    reading = read(tmp_path, b"")
    assert reading.table.symbols == ("AAPL", "IBM", "MSFT")
    text = describe(reading)
    assert f"{tmp_path}/AAPL.csv and 2 more: utf-8, comma" in text
    assert "left out, no tables:" in text
    assert all(name in text for name in ("README.md", "chart.png", ".hidden.csv", "LICENSE"))


def test_several_files_are_one_import(tmp_path: Path) -> None:
    """Several files are read as one table, and an invalid row in the last file refuses all files."""
    for symbol in ("AAPL", "IBM", "MSFT"):
        (tmp_path / f"{symbol}.csv").write_bytes(CONTENT)
    paths = [tmp_path / f"{symbol}.csv" for symbol in ("AAPL", "IBM", "MSFT")]
    reading = read_prices(paths, now=NOW)
    assert len(reading.table) == 9
    assert "AAPL.csv and 2 more: utf-8, comma, header on line 1" in describe(reading)
    paths[2].write_bytes(CONTENT + b"2024-03-18,1,2,3,x,5\n")
    with pytest.raises(PriceFileError, match=r"MSFT\.csv:5: close 'x' is not a price"):
        read_prices(paths, now=NOW)


def test_progress_counts_the_bytes_of_all_files(tmp_path: Path) -> None:
    """The progress counts the bytes of all files, never decreases, and ends at the total."""
    for n in range(20):
        (tmp_path / f"S{n}.csv.gz").write_bytes(gzip.compress(CONTENT))
    seen: list[tuple[int, int]] = []
    read_prices(tmp_path, now=NOW, progress=lambda _, done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_standard_input_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input may be compressed; without --symbol it needs a column of symbols."""
    for content in (CONTENT, gzip.compress(CONTENT)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        assert list_days(read(Path("-"), b"", symbol="AAPL").table) == AS_GIVEN
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(CONTENT)))
    assert refuse(Path("-"), b"").startswith("standard input:1: no column symbol")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-32"]
)
def test_encodings_are_found(tmp_path: Path, encoding: str) -> None:
    """The encoding is found without an option; for cp1252 the output says that it is a guess."""
    content = (
        "Note;Ticker;Datum;Schluss;Währung\nSociété;AAPL;04.03.2024;1,5;EUR\nÖl;AAPL;15.03.2024;2,5;EUR\n"
    )
    reading = read(tmp_path / "prices.csv", content.encode(encoding))
    assert list_rows(reading.table)[1] == ("AAPL", "2024-03-15", None, None, None, 2.5, 0)
    assert reading.currencies == {"AAPL": "EUR"}
    assert "cp1252 (a guess)" in describe(reading) or encoding != "cp1252"


def test_a_late_letter_changes_the_encoding(tmp_path: Path) -> None:
    """A letter far beyond the sample at the start of the file still decides between cp1252 and UTF-8."""
    rows = "".join(
        f"AAPL,{2000 + n // 300}-{n % 12 + 1:02}-{n % 25 + 1:02},1,-\n" for n in range(0, 6_000, 7)
    )
    content = f"Ticker,Date,Close,Note\n{rows}" + "AAPL,2024-03-04,2,Nestlé\n"
    assert len(content) > SAMPLE_BYTES / 2
    reading = read(tmp_path / "prices.csv", content.encode("cp1252"))
    assert "cp1252" in describe(reading)
    assert list_days(reading.table)[-1][4] == 2
    assert "utf-8" in describe(read(tmp_path / "prices.csv", content.encode()))


def test_an_encoding_can_be_given(tmp_path: Path) -> None:
    """--encoding replaces the guessed encoding; a file that is not in this encoding is refused."""
    content = "日期,代码,收盘,注\n2024-03-04,600519,1.5,茅台\n".encode("gb18030")
    assert "gb18030 (a guess)" in describe(read(tmp_path / "prices.csv", content))
    assert len(read(tmp_path / "prices.csv", content, encoding="gbk").table) == 1
    assert "prices.csv:1: not utf-8 from here on" in refuse(
        tmp_path / "prices.csv", content, encoding="utf-8"
    )


ZIPPED = gzip.compress(CONTENT * 500, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("AAPL.csv", b"", "is empty"),
        ("AAPL.csv", b"\xef\xbb\xbf\r\n \r\n", "is empty"),
        ("AAPL.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("AAPL.csv.gz", ZIPPED[:-20], "cannot be read"),
        ("AAPL.csv.gz", ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:], "cannot be read"),
        ("AAPL.csv.gz", ZIPPED[:10] + b"\xff" * 50, "cannot be read"),
        ("AAPL.csv.bz2", b"BZh9" + b"x" * 50, "cannot be read"),
        ("AAPL.csv.xz", b"\xfd7zXZ\0" + b"x" * 50, "cannot be read"),
        ("AAPL.zip", b"PK\x03\x04" + b"x" * 50, "cannot be read"),
        ("AAPL.zip", zip_files(LICENSE=b"x"), "holds no table"),
        ("AAPL.xlsx", zip_files(**{"[Content_Types].xml": b"x", "xl/a.xml": b"x"}), "is an Excel workbook"),
        ("AAPL.csv", b"<!DOCTYPE html><html></html>", "is a web page"),
        ("AAPL.csv", b'  {"Information": "rate limit"}', "is JSON"),
        ("AAPL.parquet", b"PAR1" + b"\0" * 50, "is a Parquet file"),
        ("AAPL.csv", b"\0" * 257 + b"ustar" + b"\0" * 300, "is a tar archive"),
        (
            "AAPL.csv",
            CONTENT + b'"' + b"x" * 2 * BLOCK_BYTES,
            "a line is too long, or a quote is never closed",
        ),
        ("AAPL.csv", CONTENT + b"x" * 2 * BLOCK_BYTES, "a line is too long, or a quote is never closed"),
        ("AAPL.csv", bytes(range(1, 256)) * 20, "no header"),
        ("AAPL.csv", b"\xff\xfe" + CONTENT, "no header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_an_unreadable_file_has_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """An empty, damaged or foreign file is refused with its own reason."""
    (tmp_path / name).write_bytes(content)
    assert reason in refuse(tmp_path / name, b"")


def test_a_path_without_tables_is_refused(tmp_path: Path) -> None:
    """A path that does not exist, and a folder without tables, are refused with different reasons."""
    assert refuse(tmp_path / "missing.csv", b"") == "missing.csv does not exist"
    assert "holds no table" in refuse(tmp_path, b"")


def test_reading_needs_no_pandas(tmp_path: Path) -> None:
    """Reading price files does not import pandas (0.5 s, 45 MB); `import core` does not import pyarrow."""
    (tmp_path / "AAPL.csv").write_bytes(CONTENT)
    code = (
        "import sys; from pathlib import Path; import core; assert 'pyarrow' not in sys.modules;"
        "from core.price_import.reading import read_prices; read_prices(Path(sys.argv[1]));"
        "sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_the_live_market_needs_no_pyarrow() -> None:
    """The live simulation and the replay do not import pyarrow, which costs memory and time."""
    code = "import sys, core.simulation.simulator, core.simulation.replay; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_memory_per_row_is_bounded(tmp_path: Path) -> None:
    """Each additional row of a price file takes less than 120 bytes of memory."""
    code = (
        "import resource, sys; from pathlib import Path;"
        "from core.price_import.reading import read_prices;"
        "rows = len(read_prices(Path(sys.argv[1])).table);"
        "print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    header = "Ticker,Date,Open,High,Low,Close,Volume,Adj Close\n"
    days = [date.fromordinal(725_000 + n).isoformat() for n in range(10_000)]
    peaks = {}
    for symbols in (10, 60):
        with (tmp_path / "prices.csv").open("w") as file:
            file.write(header)
            for symbol in range(symbols):
                file.writelines(f"S{symbol},{day},10.25,11.5,9.75,10.5,123456,5.25\n" for day in days)
        command = [sys.executable, "-c", code, str(tmp_path / "prices.csv")]
        rows, peak = map(int, subprocess.run(command, check=True, capture_output=True).stdout.split())
        peaks[rows] = peak
    (few, small), (many, large) = sorted(peaks.items())
    assert (few, many) == (100_000, 600_000)
    assert (large - small) / (many - few) < 120
