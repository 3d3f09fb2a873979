"""The numbers behind the metrics of one process, and the files through which other processes read them.

Owns the values in memory, the files that mirror them (in prometheus_client's multiprocess format, so that
its own collector can read them too) and the lock that shows that their writer is alive. Knows no metric by
name and reads no other process's files. docs/decisions/0007-metrics.md says why this is not
prometheus_client's own writer.
"""

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from prometheus_client.mmap_dict import mmap_key

logger = logging.getLogger(__name__)

# The beginning of a file's name, as in prometheus_client: the kind of its values and how they combine.
Prefix = Literal["counter", "histogram", "gauge_livesum", "gauge_livemax", "gauge_mostrecent"]

# Most processes never need more; a file doubles when it is full.
FIRST_SIZE_BYTES = 16 * 1024
# A file begins with the number of bytes in use, and padding.
HEADER_BYTES = 8
LENGTH = struct.Struct("i")
_PAIR = struct.Struct("dd")
LOCK_SUFFIX = ".lock"
# A lock file has this suffix until its writer holds the lock.
STARTING_SUFFIX = ".starting"
_JOIN_ATTEMPTS = 3


class SeriesKey(NamedTuple):
    """Identifies a number: the prefix of its file, and its key in prometheus_client's form."""

    prefix: Prefix
    key: str


def build_key(prefix: Prefix, metric: str, sample: str, labels: Mapping[str, str], text: str) -> SeriesKey:
    """Return the key of one sample of a metric."""
    return SeriesKey(prefix, mmap_key(metric, sample, list(labels), list(labels.values()), text))


def _create_writer_id() -> str:
    # containers share pid 1 and hosts may share a name; the reader splits file names at underscores
    host = socket.gethostname().replace("_", "-").replace("/", "-") or "host"
    return f"{host}-{os.getpid()}-{time.time_ns()}-{secrets.token_hex(4)}"


class Value:
    """One number; thread safe through its writer's lock."""

    __slots__ = ("_file", "_left_in_files", "_lock", "key", "number", "timestamp")

    def __init__(self, key: SeriesKey, lock: threading.Lock) -> None:
        self.key = key
        self.number = 0.0
        self.timestamp = 0.0
        self._lock = lock
        self._file: _ValueFile | None = None
        self._left_in_files = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to the number."""
        with self._lock:
            self.number += amount
            if self._file is not None:
                self._file.put(self.key.key, self.number, self.timestamp)

    def set(self, number: float, timestamp: float = 0.0) -> None:
        """Replace the number.

        For a gauge of mode `mostrecent` the reader takes the number with the highest timestamp.
        """
        with self._lock:
            self.number, self.timestamp = number, timestamp
            if self._file is not None:
                self._file.put(self.key.key, number, timestamp)

    def attach(self, file: "_ValueFile") -> None:
        """Mirror the number in `file` from now on; the caller holds the lock. Raises `OSError`."""
        file.put(self.key.key, self.number, self.timestamp)
        self._file = file

    def detach(self) -> None:
        """Stop mirroring the number; readers still add the part of a counter that is in its file."""
        if self._file is not None and not self.key.prefix.startswith("gauge"):
            self._left_in_files = self.number
        self._file = None

    def unshared(self) -> tuple[float, float]:
        """Return the part of the number that the files of a stopped writer lack, and the timestamp."""
        return self.number - self._left_in_files, self.timestamp

    def reset(self, lock: threading.Lock) -> None:
        """Start at zero, in memory only."""
        self.number = self.timestamp = self._left_in_files = 0.0
        self._lock, self._file = lock, None


class MetricWriter:
    """The values of one `Metrics`: in memory, and in files once it has joined a folder."""

    def __init__(self) -> None:
        self.id = _create_writer_id()
        self.directory: Path | None = None
        self._values: dict[SeriesKey, Value] = {}
        self._files: dict[str, _ValueFile] = {}
        self._lock = threading.Lock()
        self._lock_file: int | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other processes can read the values."""
        return self._lock_file is not None

    def value(self, key: SeriesKey) -> Value:
        """Return the number of a series, which starts at zero."""
        with self._lock:
            value = self._values.get(key)
            if value is None:
                value = self._values[key] = Value(key, self._lock)
                if self.is_shared:
                    with self._falling_back_to_memory():
                        value.attach(self._find_file(key.prefix))
            return value

    def snapshot(self) -> tuple[str | None, list[tuple[SeriesKey, float, float]]]:
        """Return the writer's id if files hold the same numbers (else None), and the numbers in memory.

        If the files have become unusable, they keep the counts up to then, and this returns only later ones.
        """
        with self._lock:
            values = [(value.key, *value.unshared()) for value in self._values.values()]
            return (self.id if self.is_shared else None), values

    def join(self, directory: Path) -> None:
        """Mirror the values in files of `directory` from now on; it is created when missing.

        A folder that cannot be used costs one warning; the values then stay in this process.
        """
        with self._lock:
            self.directory = directory
            with self._falling_back_to_memory():
                directory.mkdir(parents=True, exist_ok=True)
                self._lock_file = _lock_writer(directory, self.id)
                for value in self._values.values():
                    value.attach(self._find_file(value.key.prefix))

    def close(self) -> None:
        """Release the files; the next reader sees that this writer has ended."""
        with self._lock:
            self._leave()

    def reset_after_fork(self) -> None:
        """Start at zero with a new writer id: the present files belong to the parent process."""
        self._lock = threading.Lock()
        directory = self.directory if self.is_shared else None
        self._leave()
        for value in self._values.values():
            value.reset(self._lock)
        self.id = _create_writer_id()
        if directory is not None:
            self.join(directory)

    @contextlib.contextmanager
    def _falling_back_to_memory(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._leave()
            logger.warning(
                "metrics stay in this process: %s cannot be used (%s); make room in it or make it writable,"
                " then restart",
                self.directory,
                errno.errorcode.get(error.errno or 0, type(error).__name__),
            )

    def _find_file(self, prefix: Prefix) -> "_ValueFile":
        if self.directory is None:
            raise FileNotFoundError(errno.ENOENT, "no folder")
        if prefix not in self._files:
            self._files[prefix] = _ValueFile(self.directory / f"{prefix}_{self.id}.db")
        return self._files[prefix]

    def _leave(self) -> None:
        for value in self._values.values():
            value.detach()
        for file in self._files.values():
            file.close()
        self._files = {}
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None


def _lock_writer(directory: Path, writer: str) -> int:
    """Create the lock file of a writer and lock it; return its file descriptor.

    The file gets its final name once it is locked, so no reader sees a starting writer as ended.
    """
    starting = directory / f"{writer}{STARTING_SUFFIX}"
    for attempt in range(_JOIN_ATTEMPTS):
        lock = os.open(starting, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            starting.rename(directory / f"{writer}{LOCK_SUFFIX}")
        except OSError as error:
            os.close(lock)
            # somebody may have cleared the folder in between
            if error.errno != errno.ENOENT or attempt == _JOIN_ATTEMPTS - 1:
                raise
        else:
            return lock
    raise FileNotFoundError(errno.ENOENT, "the folder is cleared all the time")


class _ValueFile:
    """A memory-mapped file of numbers in prometheus_client's format.

    Reserves disk space first: a write to a mapped page without disk space raises no `OSError` but SIGBUS,
    which ends the process.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._positions: dict[str, int] = {}
        self._used = HEADER_BYTES
        try:
            self._map = self._grow(FIRST_SIZE_BYTES)
        except OSError:
            os.close(self._descriptor)
            raise
        LENGTH.pack_into(self._map, 0, self._used)

    def put(self, key: str, number: float, timestamp: float) -> None:
        """Write a number; raises `OSError` when there is no room for a new key."""
        position = self._positions.get(key)
        if position is None:
            position = self._append(key.encode())
            self._positions[key] = position
        _PAIR.pack_into(self._map, position, number, timestamp)

    def _append(self, key: bytes) -> int:
        """Add a key with two zeros; return their position, which is a multiple of 8."""
        padded = key + b" " * (8 - (len(key) + LENGTH.size) % 8)
        entry = LENGTH.pack(len(key)) + padded + _PAIR.pack(0.0, 0.0)
        size = len(self._map)
        while size < self._used + len(entry):
            size *= 2
        if size > len(self._map):
            self._map = self._grow(size)
        self._map[self._used : self._used + len(entry)] = entry
        self._used += len(entry)
        # set the length last: a reader sees either the whole entry or nothing of it
        LENGTH.pack_into(self._map, 0, self._used)
        return self._used - _PAIR.size

    def _grow(self, size_bytes: int) -> mmap.mmap:
        _reserve(self._descriptor, size_bytes)
        return mmap.mmap(self._descriptor, size_bytes)

    def close(self) -> None:
        """Release the file."""
        self._map.close()
        os.close(self._descriptor)


def _reserve(file: int, size_bytes: int) -> None:
    """Extend a file that is open for appending, with zeros that really occupy disk space."""
    missing = size_bytes - os.fstat(file).st_size
    while missing > 0:
        missing -= os.write(file, bytes(missing))
