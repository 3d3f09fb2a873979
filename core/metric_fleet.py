"""Reads what every process of the host wrote, as one set of metrics.

Owns folding the files of ended writers into one archive: their counters and histograms stay
for good, what they had at the moment of ending is gone. Names no metric, and writes nothing
but the archive.

Safe beside other readers (one at a time holds the folder's lock), beside writers that start
(they are seen only once they hold their own lock) and when it is killed at any point: the
archive is replaced in one step and names the writers that it contains, so that what is left
of their files is not counted again.
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

from core.metric_families import Families, Reading
from core.metric_values import LOCK_SUFFIX, STARTING_SUFFIX, MetricWriter, Prefix, SeriesKey

logger = logging.getLogger(__name__)

ARCHIVE = "archive.json"
# Another reader needs milliseconds; one that was stopped must not stop all.
LOCK_SECONDS = 2.0
LOCK_POLL_SECONDS = 0.005
# A writer that starts holds this name for far less than a millisecond.
ABANDONED_SECONDS = 3600.0
# A live gauge says nothing once its writer has ended.
FOLDED_PREFIXES: frozenset[Prefix] = frozenset({"counter", "histogram", "gauge_mostrecent"})


class _Archived(msgspec.Struct, array_like=True):
    prefix: Prefix
    key: str
    number: float
    timestamp: float


class _Archive(msgspec.Struct):
    values: list[_Archived] = []
    writers: list[str] = []
    """Those that are contained and whose files may still be there."""


class _File(NamedTuple):
    path: Path
    prefix: Prefix
    writer: str


class FleetReader:
    """The metrics of all processes that share a folder, or of this one alone; thread safe."""

    def __init__(self, own: MetricWriter, directory: Path | None) -> None:
        self._own = own
        self.directory = directory
        self._families = Families()
        self._archive = _Archive()
        self._archived: Reading | None = None
        self._archive_stamp: tuple[int, int] | None = None
        self.reset_after_fork()
        self._is_folding_broken = False
        self.files_read = 0
        """How many files of writers the last collection read, beside the archive."""

    def reset_after_fork(self) -> None:
        """Take a new lock: a thread that the child does not have may hold the old one."""
        self._lock = threading.Lock()

    def collect(self, limit_seconds: float = LOCK_SECONDS) -> list[Metric]:
        """Return every metric of the fleet at this moment, sorted by name.

        This process's own come from memory, so they are there whatever becomes of the folder.
        What others count themselves is up to a second old. Raises `TimeoutError` when another
        reader holds the folder for `limit_seconds`, which is two at most.
        """
        deadline = time.monotonic() + min(limit_seconds, LOCK_SECONDS)
        if not self._lock.acquire(timeout=max(0.0, min(limit_seconds, LOCK_SECONDS))):
            raise TimeoutError(f"another scrape waits for {self.directory}")
        try:
            own_id, unshared = self._own.snapshot()
            own = self._read_values((key, *numbers) for key, numbers in unshared)
            return self._families.build([*self._read_folder(own_id, deadline), own])
        finally:
            self._lock.release()

    def list_gauges(self) -> list[list[Sample]]:
        """Return the gauges of each other live process by itself; folds nothing and waits for nobody."""
        directory = self.directory
        if directory is None:
            return []
        with self._lock:
            try:
                files = [
                    file
                    for file in _parse_names(directory, _list_names(directory))
                    if file.prefix == "gauge_livesum" and file.writer != self._own.id
                    if _is_alive(directory, file.writer)
                ]
            except OSError:
                # a collection says what is wrong with the folder
                return []
            self._families.forget_files_but(file.path for file in files)
            return [
                self._families.list_samples(self._families.read_file(file.path, file.prefix))
                for file in files
            ]

    def _read_values(self, values: Iterable[tuple[SeriesKey, float, float]]) -> Reading:
        rows = [(self._families.index(key), number, timestamp) for key, number, timestamp in values]
        return Reading([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])

    def _read_folder(self, own_id: str | None, deadline: float) -> list[Reading]:
        if self.directory is None:
            return []
        try:
            with _locked(self.directory, deadline):
                return self._read_locked(self.directory, own_id)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # this process could not write anything there either, and has said so
            return []

    def _read_locked(self, directory: Path, own_id: str | None) -> list[Reading]:
        self._load_archive(directory)
        names = _list_names(directory)
        writers = {name.removesuffix(LOCK_SUFFIX) for name in names if name.endswith(LOCK_SUFFIX)}
        writers |= {file.writer for file in _parse_names(directory, names)}
        # what this process has in memory must not come to the archive as well
        ended = {writer for writer in writers - {own_id} if not _is_alive(directory, writer)}
        # again: who has ended in between may have created files since
        files = list(_parse_names(directory, _list_names(directory)))
        if ended:
            self._fold(directory, files, ended)
        files = [
            file
            for file in files
            if file.writer not in {own_id, *self._archive.writers}
            and (file.writer not in ended or file.prefix in FOLDED_PREFIXES)
        ]
        _remove_abandoned(directory, names)
        self._families.forget_files_but(file.path for file in files)
        self.files_read = len(files)
        return [self._read_archive(), *(self._families.read_file(file.path, file.prefix) for file in files)]

    # -- the archive ------------------------------------------------------------------

    def _load_archive(self, directory: Path) -> None:
        path = directory / ARCHIVE
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns)
            if stamp != self._archive_stamp:
                archive = msgspec.json.decode(path.read_bytes(), type=_Archive)
                self._archive, self._archived, self._archive_stamp = archive, None, stamp
        except FileNotFoundError:
            self._archive, self._archived, self._archive_stamp = _Archive(), None, None
        except msgspec.DecodeError:
            logger.warning("%s is damaged and begun anew; counters of ended processes start over", path)
            with contextlib.suppress(OSError):
                path.unlink()
            self._archive, self._archived, self._archive_stamp = _Archive(), None, None

    def _read_archive(self) -> Reading:
        if self._archived is None:
            values = self._archive.values
            self._archived = self._read_values(
                (SeriesKey(value.prefix, value.key), value.number, value.timestamp) for value in values
            )
        return self._archived

    def _fold(self, directory: Path, files: list[_File], ended: set[str]) -> None:
        """Bring the numbers of ended writers into the archive, then remove their files."""
        known = set(self._archive.writers)
        new = [file for file in files if file.writer in ended - known and file.prefix in FOLDED_PREFIXES]
        try:
            if ended - known:
                readings = [self._families.read_file(file.path, file.prefix) for file in new]
                self._write_archive(directory, [self._read_archive(), *readings], ended)
            for file in files:
                if file.writer in ended:
                    file.path.unlink(missing_ok=True)
            for writer in ended:
                (directory / f"{writer}{LOCK_SUFFIX}").unlink(missing_ok=True)
        except OSError as error:
            if not self._is_folding_broken:
                logger.warning(
                    "files of ended processes stay in %s (%s), and each makes a scrape slower;"
                    " make room in it or make it writable",
                    directory,
                    errno.errorcode.get(error.errno or 0, type(error).__name__),
                )
            self._is_folding_broken = True
        else:
            self._is_folding_broken = False

    def _write_archive(self, directory: Path, writers: list[Reading], ended: set[str]) -> None:
        merged = self._families.merge(writers)
        values = [
            _Archived(*self._families.key(number), merged.numbers[number], merged.timestamps[number])
            for number in self._families.list_present(merged)
        ]
        archive = _Archive(values, sorted(ended))
        path = directory / ARCHIVE
        draft = path.with_suffix(".draft")
        try:
            # not synchronised: after a power failure counters may start over, as after any restart
            draft.write_bytes(msgspec.json.encode(archive))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        self._archive, self._archived, self._archive_stamp = archive, None, None


def _list_names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def _parse_names(directory: Path, names: Iterable[str]) -> Iterator[_File]:
    """Yield the files of writers; what else lies there is left alone."""
    for name in names:
        begin, _, writer = name.removesuffix(".db").rpartition("_")
        for prefix in get_args(Prefix):
            if name.endswith(".db") and begin == prefix:
                yield _File(directory / name, prefix, writer)


def _is_alive(directory: Path, writer: str) -> bool:
    """Say whether a writer holds its lock."""
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
    """Remove what writers left that were killed while they started."""
    for name in names:
        if name.endswith(STARTING_SUFFIX):
            with contextlib.suppress(OSError):
                path = directory / name
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


@contextlib.contextmanager
def _locked(directory: Path, deadline: float) -> Iterator[None]:
    """Hold the folder against other readers; the lock is the folder's own, so it needs no write access."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"another exporter holds {directory}; stop it when it stays so"
                    ) from None
                time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(handle)
