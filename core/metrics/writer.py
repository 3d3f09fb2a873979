"""The values of the metrics of one process, in memory and in files for other processes.

Owns the values in memory, the files with the same values, and the lock that shows that their writer is
alive. The files have prometheus_client's multiprocess format, so that its own collector can read them too.
docs/decisions/0007-metrics.md says why prometheus_client's own writer is not used. Knows no metric by name,
and reads no files of other processes; `fleet` reads them, and removes the files of ended writers.
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

# The beginning of a file's name, as in prometheus_client: the kind of its metrics, and the mode of gauges.
Prefix = Literal["counter", "histogram", "gauge_livesum", "gauge_livemax", "gauge_mostrecent"]

# Most processes never need a larger file. The size of a full file is doubled.
FIRST_SIZE_BYTES = 16 * 1024
# A file begins with the number of used bytes, as a LENGTH, and padding up to this size.
HEADER_BYTES = 8
LENGTH = struct.Struct("i")
# The stored form of the value of a series and its timestamp.
_PAIR = struct.Struct("dd")
LOCK_SUFFIX = ".lock"
# A lock file has this suffix until its writer holds the lock.
STARTING_SUFFIX = ".starting"
_JOIN_ATTEMPTS = 3


class SeriesKey(NamedTuple):
    """Identifies a series by the prefix of its file, and by its key in prometheus_client's format."""

    prefix: Prefix
    key: str


def build_key(prefix: Prefix, metric: str, sample: str, labels: Mapping[str, str], text: str) -> SeriesKey:
    """Return the key of one sample of a metric."""
    return SeriesKey(prefix, mmap_key(metric, sample, list(labels), list(labels.values()), text))


def _create_writer_id() -> str:
    # The id has a random part, because containers all have pid 1, and hosts may have the same name. It has no
    # underscore, because the reader splits file names at underscores.
    host = socket.gethostname().replace("_", "-").replace("/", "-") or "host"
    return f"{host}-{os.getpid()}-{time.time_ns()}-{secrets.token_hex(4)}"


class Value:
    """The value of one series. It uses the lock of its writer, so it is thread safe."""

    __slots__ = ("_file", "_left_in_files", "_lock", "key", "number", "timestamp")

    def __init__(self, key: SeriesKey, lock: threading.Lock) -> None:
        self.key = key
        self.number = 0.0
        self.timestamp = 0.0
        self._lock = lock
        self._file: _ValueFile | None = None
        self._left_in_files = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount` to the value."""
        with self._lock:
            self.number += amount
            if self._file is not None:
                self._file.put(self.key.key, self.number, self.timestamp)

    def set(self, number: float, timestamp: float = 0.0) -> None:
        """Replace the value.

        A reader of a gauge of mode `mostrecent` uses the value with the latest timestamp.
        """
        with self._lock:
            self.number, self.timestamp = number, timestamp
            if self._file is not None:
                self._file.put(self.key.key, number, timestamp)

    def attach(self, file: "_ValueFile") -> None:
        """From now on, write the value to `file` too. The caller holds the lock. Raises `OSError`."""
        file.put(self.key.key, self.number, self.timestamp)
        self._file = file

    def detach(self) -> None:
        """Stop writing the value to its file. The count of a counter stays in the file, for readers."""
        if self._file is not None and not self.key.prefix.startswith("gauge"):
            self._left_in_files = self.number
        self._file = None

    def unshared(self) -> tuple[float, float]:
        """Return the value without the part that stays in a detached file, and the timestamp."""
        return self.number - self._left_in_files, self.timestamp

    def reset(self, lock: threading.Lock) -> None:
        """Start again at zero, in memory only, with another lock."""
        self.number = self.timestamp = self._left_in_files = 0.0
        self._lock, self._file = lock, None


class MetricWriter:
    """The values of one `Metrics` object: in memory, and after `join` also in files."""

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
        """Return the `Value` of a series. A new one is zero."""
        with self._lock:
            value = self._values.get(key)
            if value is None:
                value = self._values[key] = Value(key, self._lock)
                if self.is_shared:
                    with self._falling_back_to_memory():
                        value.attach(self._find_file(key.prefix))
            return value

    def snapshot(self) -> tuple[str | None, list[tuple[SeriesKey, float, float]]]:
        """Return the id of this writer, or None if it has no files, and its values in memory.

        If the files became unusable, the counts up to that moment stay in the files. The returned counts then
        begin at zero at that moment.
        """
        with self._lock:
            values = [(value.key, *value.unshared()) for value in self._values.values()]
            return (self.id if self.is_shared else None), values

    def join(self, directory: Path) -> None:
        """From now on, write the values to files in `directory` too.

        A missing folder is created. If the folder cannot be used, one warning is logged, and the values stay
        in this process.
        """
        with self._lock:
            self.directory = directory
            with self._falling_back_to_memory():
                directory.mkdir(parents=True, exist_ok=True)
                self._lock_file = _lock_writer(directory, self.id)
                for value in self._values.values():
                    value.attach(self._find_file(value.key.prefix))

    def close(self) -> None:
        """Close the files and release the lock. The next reader sees that this writer has ended."""
        with self._lock:
            self._leave()

    def reset_after_fork(self) -> None:
        """Start at zero with a new writer id, because the files belong to the parent process."""
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
    """Create the lock file of a writer and lock it. Return its file descriptor.

    The file gets its final name only when it is locked. Otherwise a reader could see an unlocked file, and
    take the writer for an ended one.
    """
    starting = directory / f"{writer}{STARTING_SUFFIX}"
    for attempt in range(_JOIN_ATTEMPTS):
        lock = os.open(starting, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            starting.rename(directory / f"{writer}{LOCK_SUFFIX}")
        except OSError as error:
            os.close(lock)
            # another program may have emptied the folder meanwhile
            if error.errno != errno.ENOENT or attempt == _JOIN_ATTEMPTS - 1:
                raise
        else:
            return lock
    raise FileNotFoundError(errno.ENOENT, "another program removes the lock file again and again")


class _ValueFile:
    """A memory-mapped file of values in prometheus_client's format.

    Disk space is reserved first. A write to a mapped page without disk space does not raise `OSError`: the
    signal SIGBUS ends the process.
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
        """Write the value of a key. Raises `OSError` if there is no disk space for a new key."""
        position = self._positions.get(key)
        if position is None:
            position = self._append(key.encode())
            self._positions[key] = position
        _PAIR.pack_into(self._map, position, number, timestamp)

    def _append(self, key: bytes) -> int:
        """Add a key with value 0 and timestamp 0. Return the position of the value, a multiple of 8."""
        padded = key + b" " * (8 - (len(key) + LENGTH.size) % 8)
        entry = LENGTH.pack(len(key)) + padded + _PAIR.pack(0.0, 0.0)
        size = len(self._map)
        while size < self._used + len(entry):
            size *= 2
        if size > len(self._map):
            self._map = self._grow(size)
        self._map[self._used : self._used + len(entry)] = entry
        self._used += len(entry)
        # set the length last, so that a reader never sees a part of the entry
        LENGTH.pack_into(self._map, 0, self._used)
        return self._used - _PAIR.size

    def _grow(self, size_bytes: int) -> mmap.mmap:
        _reserve(self._descriptor, size_bytes)
        return mmap.mmap(self._descriptor, size_bytes)

    def close(self) -> None:
        self._map.close()
        os.close(self._descriptor)


def _reserve(file: int, size_bytes: int) -> None:
    """Extend a file to `size_bytes` with zeros that occupy disk space. It must be open for appending."""
    missing = size_bytes - os.fstat(file).st_size
    while missing > 0:
        missing -= os.write(file, bytes(missing))
