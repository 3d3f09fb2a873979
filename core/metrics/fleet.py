"""Reads the metrics of all processes of a host together (the fleet).

A writer is the `MetricWriter` of one process. Owns the archive, a file to which the values of ended writers
are added. Their counters, histograms and `mostrecent` gauges are kept forever. Their other gauges are
dropped. Knows no metric by name, and writes only the archive.

Several readers may run: a lock on the folder lets one in at a time. Writers may start meanwhile: a writer is
read from the moment when it holds its own lock. A reader may be killed at any point: the archive is replaced
in one step, and lists the writers that were added last. So their remaining files are not counted again.
"""

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
from prometheus_client import Metric
from prometheus_client.samples import Sample

from core.metrics.merge import SeriesIndex, WriterNumbers
from core.metrics.writer import LOCK_SUFFIX, STARTING_SUFFIX, MetricWriter, Prefix, SeriesKey

logger = logging.getLogger(__name__)

ARCHIVE = "archive.json"
# A reader waits at most this long for the lock on the folder. Normally it is held for milliseconds, but a
# suspended reader may hold it for any time.
LOCK_SECONDS = 2.0
LOCK_POLL_SECONDS = 0.005
# A lock file has the suffix `.starting` for less than a millisecond. If it still has this suffix after
# ABANDONED_SECONDS, its writer was killed, and the file is removed.
ABANDONED_SECONDS = 3600.0
# The kinds of files that are archived. Gauges of other modes have no meaning after their writer has ended.
ARCHIVED_PREFIXES: frozenset[Prefix] = frozenset({"counter", "histogram", "gauge_mostrecent"})


class _Archived(msgspec.Struct, array_like=True):
    prefix: Prefix
    key: str
    number: float
    timestamp: float


class _Archive(msgspec.Struct):
    values: list[_Archived] = []
    writers: list[str] = []
    """The writers that were archived last. Their values are in `values`, but their files may still exist."""


class _File(NamedTuple):
    path: Path
    prefix: Prefix
    writer: str


class FleetReader:
    """Reads the metrics of all processes that share a folder, or of this process alone; thread safe."""

    def __init__(self, own: MetricWriter, directory: Path | None) -> None:
        self._own = own
        self.directory = directory
        # held while values are read, but not while this reader waits for the lock on the folder
        self._lock = threading.Lock()
        self._index = SeriesIndex()
        self._set_archive(_Archive(), None)
        self._has_failed_to_archive = False
        self.files_read = 0
        """How many files of writers the last collection read, not counting the archive."""

    def collect(self, limit_seconds: float = LOCK_SECONDS) -> list[Metric]:
        """Return all metrics of the fleet, sorted by name.

        The metrics of this process come from memory, so they are current, and are returned even if the folder
        cannot be read. Those of other processes are up to a second old. Raises `TimeoutError` if another
        reader holds the lock on the folder for `limit_seconds` (at most two).
        """
        if self.directory is None:
            return self.collect_own()
        deadline = time.monotonic() + min(limit_seconds, LOCK_SECONDS)
        try:
            with _locked(self.directory, deadline), self._lock:
                own_id, values = self._own.snapshot()
                own = self._index.read_values(values)
                return self._index.build([*self._read_folder(self.directory, own_id), own])
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # the writer of this process cannot use the folder either, and has logged this
            return self.collect_own()

    def collect_own(self) -> list[Metric]:
        """Return the metrics of this process.

        If its files became unusable, the counts up to that moment are only in the files, and are missing.
        """
        with self._lock:
            return self._index.build([self._index.read_values(self._own.snapshot()[1])])

    def list_gauges(self) -> list[list[Sample]]:
        """Return the `livesum` gauges of each other live process.

        Does not change the archive, and does not wait for other readers.
        """
        directory = self.directory
        if directory is None:
            return []
        with self._lock:
            try:
                files = list(_parse_names(directory, _list_names(directory)))
                live = [
                    file
                    for file in files
                    if file.prefix == "gauge_livesum" and file.writer != self._own.id
                    if _is_alive(directory, file.writer)
                ]
            except OSError:
                # `collect` reports what is wrong with the folder
                return []
            self._index.forget_files_but(file.path for file in files)
            writers = [self._index.read_file(file.path, file.prefix) for file in live]
            return [self._index.list_samples(writer) for writer in writers]

    def _read_folder(self, directory: Path, own_id: str | None) -> list[WriterNumbers]:
        self._load_archive(directory)
        names = _list_names(directory)
        writers = {name.removesuffix(LOCK_SUFFIX) for name in names if name.endswith(LOCK_SUFFIX)}
        writers |= {file.writer for file in _parse_names(directory, names)}
        # the values of this process come from memory, so its files must not be archived
        ended = {writer for writer in writers - {own_id} if not _is_alive(directory, writer)}
        # list again before archiving: a writer that has ended meanwhile may have created more files
        files = list(_parse_names(directory, _list_names(directory) if ended else names))
        if ended:
            self._archive_ended(directory, files, ended)
        files = [
            file
            for file in files
            if file.writer not in {own_id, *self._archived_writers}
            and (file.writer not in ended or file.prefix in ARCHIVED_PREFIXES)
        ]
        _remove_abandoned(directory, names)
        self._index.forget_files_but(file.path for file in files)
        self.files_read = len(files)
        return [self._archived, *(self._index.read_file(file.path, file.prefix) for file in files)]

    # -- the archive ------------------------------------------------------------------

    def _load_archive(self, directory: Path) -> None:
        path = directory / ARCHIVE
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            if stamp != self._archive_stamp:
                self._set_archive(msgspec.json.decode(path.read_bytes(), type=_Archive), stamp)
        except FileNotFoundError:
            self._set_archive(_Archive(), None)
        except msgspec.DecodeError:
            logger.warning("%s is damaged and is removed; counters of ended processes start again", path)
            with contextlib.suppress(OSError):
                path.unlink()
            self._set_archive(_Archive(), None)

    def _set_archive(self, archive: _Archive, stamp: tuple[int, int] | None) -> None:
        self._archived_writers = archive.writers
        self._archive_stamp = stamp
        self._archived = self._index.read_values(
            (SeriesKey(value.prefix, value.key), value.number, value.timestamp) for value in archive.values
        )

    def _archive_ended(self, directory: Path, files: list[_File], ended: set[str]) -> None:
        """Add the values of ended writers to the archive, then remove their files."""
        known = set(self._archived_writers)
        new = [file for file in files if file.writer in ended - known and file.prefix in ARCHIVED_PREFIXES]
        try:
            if ended - known:
                writers = [self._index.read_file(file.path, file.prefix) for file in new]
                self._write_archive(directory, [self._archived, *writers], ended)
            for file in files:
                if file.writer in ended:
                    file.path.unlink(missing_ok=True)
            for writer in ended:
                (directory / f"{writer}{LOCK_SUFFIX}").unlink(missing_ok=True)
        except OSError as error:
            if not self._has_failed_to_archive:
                logger.warning(
                    "files of ended processes stay in %s (%s), and each makes a scrape slower;"
                    " make room in it or make it writable",
                    directory,
                    errno.errorcode.get(error.errno or 0, type(error).__name__),
                )
            self._has_failed_to_archive = True
        else:
            self._has_failed_to_archive = False

    def _write_archive(self, directory: Path, writers: list[WriterNumbers], ended: set[str]) -> None:
        values = self._index.list_values(self._index.merge(writers))
        archive = _Archive([_Archived(*key, number, time_) for key, number, time_ in values], sorted(ended))
        path = directory / ARCHIVE
        draft = path.with_suffix(".draft")
        try:
            # no fsync: after a power failure counters may start over, as after any restart
            draft.write_bytes(msgspec.json.encode(archive))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        self._set_archive(archive, None)


def _list_names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def _parse_names(directory: Path, names: Iterable[str]) -> Iterator[_File]:
    """Yield the files of writers among `names`. Other files are ignored."""
    for name in names:
        begin, _, writer = name.removesuffix(".db").rpartition("_")
        for prefix in get_args(Prefix):
            if name.endswith(".db") and begin == prefix:
                yield _File(directory / name, prefix, writer)


def _is_alive(directory: Path, writer: str) -> bool:
    """Return whether a writer holds its lock."""
    try:
        lock = os.open(directory / f"{writer}{LOCK_SUFFIX}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _remove_abandoned(directory: Path, names: Iterable[str]) -> None:
    """Remove the lock files of writers that were killed while they started."""
    for name in names:
        if name.endswith(STARTING_SUFFIX):
            with contextlib.suppress(OSError):
                path = directory / name
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


@contextlib.contextmanager
def _locked(directory: Path, deadline: float) -> Iterator[None]:
    """Keep other readers out during the block. Raises `TimeoutError` after `deadline`.

    The lock is on the folder itself, so a reader needs no write access.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"another exporter holds the lock on {directory}; stop it if this lasts"
                    ) from None
                time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        # unlock explicitly: a child that was forked meanwhile has a copy of the descriptor and keeps the lock
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
