"""The numbers behind the metrics of one process, and the files that others read them from.

Owns the values in memory, the files that mirror them (in prometheus_client's multiprocess
format, so that its own collector can read them as well) and the lock that says that the
writer lives. Names no metric, and reads no other process's files.

prometheus_client's own writer is not used: it keeps one set of files for a whole process,
and its files are sparse, so that a full disk ends the process with SIGBUS at a later write.
"""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from prometheus_client.mmap_dict import MmapedDict, mmap_key

from core.forks import call_in_forked_child

logger = logging.getLogger(__name__)

# What a file of values begins with, as prometheus_client has it.
Prefix = Literal["counter", "histogram", "gauge_livesum", "gauge_livemax", "gauge_mostrecent"]

# Most processes never need more; a file doubles when it is full.
FIRST_SIZE_BYTES = 16 * 1024
LOCK_SUFFIX = ".lock"
# A lock under this name is not yet locked: its writer is starting.
STARTING_SUFFIX = ".starting"
_JOIN_ATTEMPTS = 3


class SeriesKey(NamedTuple):
    """What identifies a number: its file's prefix, and its key in prometheus_client's form."""

    prefix: Prefix
    key: str


def build_key(prefix: Prefix, metric: str, sample: str, labels: Mapping[str, str], text: str) -> SeriesKey:
    """Return the key of one sample of a metric."""
    return SeriesKey(prefix, mmap_key(metric, sample, list(labels), list(labels.values()), text))


def create_writer_id() -> str:
    """Return an id that no other writer of the folder has, without underscores.

    Containers share pid 1, hosts may share a name, and prometheus_client splits file names
    at underscores.
    """
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
        self._file: _ReservedDict | None = None
        self._left_in_files = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to the number."""
        with self._lock:
            self.number += amount
            if self._file is not None:
                self._file.put(self.key.key, self.number, self.timestamp)

    def set(self, number: float, timestamp: float = 0.0) -> None:
        """Replace the number; the greatest timestamp wins where the latest of many counts."""
        with self._lock:
            self.number, self.timestamp = number, timestamp
            if self._file is not None:
                self._file.put(self.key.key, number, timestamp)

    def attach(self, file: "_ReservedDict | None") -> None:
        """Mirror the number in `file` from now on; the caller holds the lock. Raises `OSError`."""
        if file is not None:
            # the first write makes room for the key, which fails when there is none
            file.put(self.key.key, self.number, self.timestamp)
        elif self._file is not None and not self.key.prefix.startswith("gauge"):
            self._left_in_files = self.number
        self._file = file

    def unshared(self) -> tuple[float, float]:
        """Return what no file has once its writer has left the folder, and the timestamp."""
        return self.number - self._left_in_files, self.timestamp

    def reset(self, lock: threading.Lock) -> None:
        """Begin again at zero, in memory."""
        self.number = self.timestamp = self._left_in_files = 0.0
        self._lock, self._file = lock, None


class MetricWriter:
    """The values of one `Metrics`; in memory until it has joined a folder."""

    def __init__(self) -> None:
        self.id = create_writer_id()
        self.directory: Path | None = None
        self._values: dict[SeriesKey, Value] = {}
        self._files: dict[str, _ReservedDict] = {}
        self._lock = threading.Lock()
        self._alive: int | None = None
        call_in_forked_child(self.begin_again)

    def value(self, key: SeriesKey) -> Value:
        """Return the number of a series, which begins at zero."""
        with self._lock:
            value = self._values.get(key)
            if value is None:
                value = self._values[key] = Value(key, self._lock)
                if self._alive is not None:
                    with self._giving_up_files():
                        value.attach(self._file(key.prefix))
            return value

    def list_values(self) -> list[Value]:
        """Return every value at this moment."""
        with self._lock:
            return list(self._values.values())

    def snapshot(self) -> tuple[str | None, list[tuple[SeriesKey, tuple[float, float]]]]:
        """Return the id under which files hold all this too, if any do, and what memory holds.

        After files could not be used any more, they keep what was counted until then, and
        memory adds what was counted since.
        """
        with self._lock:
            values = [(value.key, value.unshared()) for value in self._values.values()]
            return (self.id if self._alive is not None else None), values

    @property
    def is_shared(self) -> bool:
        """Whether others can read the values."""
        return self._alive is not None

    def join(self, directory: Path) -> None:
        """Mirror the values in files of `directory` from now on.

        The folder is created when it is missing. One that cannot be used costs one warning;
        the values then stay in this process.
        """
        with self._lock:
            self.directory = directory
            with self._giving_up_files():
                directory.mkdir(parents=True, exist_ok=True)
                self._alive = _lock_writer(directory, self.id)
                for value in self._values.values():
                    value.attach(self._file(value.key.prefix))

    @contextlib.contextmanager
    def _giving_up_files(self) -> Iterator[None]:
        """Keep everything in memory from now on when the folder cannot be used any more."""
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

    def _file(self, prefix: Prefix) -> "_ReservedDict":
        if self.directory is None:
            raise FileNotFoundError(errno.ENOENT, "no folder")
        if prefix not in self._files:
            self._files[prefix] = _ReservedDict(self.directory / f"{prefix}_{self.id}.db")
        return self._files[prefix]

    def close(self) -> None:
        """Let go of the files; whoever reads them next takes this writer for ended."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        for value in self._values.values():
            value.attach(None)
        for file in self._files.values():
            file.release()
        self._files = {}
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    def begin_again(self) -> None:
        """Start at zero as a writer of its own, in a forked child: the files are the parent's."""
        self._lock = threading.Lock()
        was_shared = self._alive is not None
        for value in self._values.values():
            value.reset(self._lock)
        self._leave()
        self.id = create_writer_id()
        if was_shared and self.directory is not None:
            self.join(self.directory)


def _lock_writer(directory: Path, writer: str) -> int:
    """Create the lock of a writer and hold it; return its file descriptor.

    It gets its name once it is held: nobody ever sees a starting writer's lock free.
    """
    starting = directory / f"{writer}{STARTING_SUFFIX}"
    for attempt in range(_JOIN_ATTEMPTS):
        lock = os.open(starting, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            starting.rename(directory / f"{writer}{LOCK_SUFFIX}")
        except OSError as error:
            os.close(lock)
            # somebody cleared the folder in between
            if error.errno != errno.ENOENT or attempt == _JOIN_ATTEMPTS - 1:
                raise
        else:
            return lock
    raise FileNotFoundError(errno.ENOENT, "the folder is cleared all the time")


class _ReservedDict(MmapedDict):
    """prometheus_client's file of numbers, which takes its room on the disk before it uses it.

    A write to a page that has no room raises no error but SIGBUS, which ends the process.
    """

    _capacity: int
    _used: int
    _f: BinaryIO

    def __init__(self, path: Path) -> None:
        with path.open("ab", buffering=0) as file:
            _reserve(file.fileno(), FIRST_SIZE_BYTES)
        super().__init__(str(path))  # type: ignore[no-untyped-call]  # prometheus_client has no annotations here

    def put(self, key: str, number: float, timestamp: float) -> None:
        """Write a number; raises `OSError` when there is no room for a new key."""
        self.write_value(key, number, timestamp)  # type: ignore[no-untyped-call]  # see above

    def _init_value(self, key: str) -> None:
        # the length, the key and its padding, two numbers
        needed = self._used + 4 + len(key.encode()) + 8 + 16
        size = self._capacity
        while size < needed:
            size *= 2
        _reserve(self._f.fileno(), size)
        super()._init_value(key)  # type: ignore[no-untyped-call]  # see above

    def release(self) -> None:
        """Close the file."""
        self.close()  # type: ignore[no-untyped-call]  # see above


def _reserve(file: int, size_bytes: int) -> None:
    """Lengthen a file that is open for appending, with zeros that are really on the disk."""
    missing = size_bytes - os.fstat(file).st_size
    while missing > 0:
        missing -= os.write(file, bytes(missing))
