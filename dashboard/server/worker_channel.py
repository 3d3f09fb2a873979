"""The two sockets between a worker of the dashboard and its parent: messages and accepted connections.

Owns the formats. One socket carries lines of JSON in both directions. Over the other the parent passes
connections to the worker, each with one byte. End of file on a socket means that the other side has ended.
"""

import asyncio
import socket

import msgspec


class Ready(msgspec.Struct, tag="ready"):
    """The worker answers requests."""


class ConnectionLoad(msgspec.Struct, tag="load"):
    """How many connections the worker has received and how many are open; sent at least every second."""

    given: int
    open: int


class Enter(msgspec.Struct, tag="enter"):
    """The worker asks whether one more page may open; the answer has the same number."""

    number: int
    client: str
    is_known: bool


class Leave(msgspec.Struct, tag="leave"):
    """A page of the worker has ended."""

    client: str
    is_known: bool


class Admission(msgspec.Struct, tag="answer"):
    """The parent's answer to `Enter`."""

    number: int
    is_admitted: bool


FromWorker = Ready | ConnectionLoad | Enter | Leave

_encoder = msgspec.json.Encoder()
_from_worker = msgspec.json.Decoder(FromWorker)
_from_parent = msgspec.json.Decoder(Admission)


def send(writer: asyncio.StreamWriter, message: FromWorker | Admission) -> None:
    """Send a message; do nothing if the peer has ended."""
    if not writer.is_closing():
        writer.write(_encoder.encode(message) + b"\n")


def parse_from_worker(line: bytes) -> FromWorker:
    """Return the message in a line that a worker sent."""
    message: FromWorker = _from_worker.decode(line)
    return message


def parse_from_parent(line: bytes) -> Admission:
    """Return the message in a line that the parent sent."""
    return _from_parent.decode(line)


def give_connection(channel: socket.socket, connection: socket.socket) -> None:
    """Pass a connection to the worker; raises `OSError`, as `BlockingIOError` if its queue is full."""
    socket.send_fds(channel, [b"c"], [connection.fileno()])


def take_connection(channel: socket.socket) -> socket.socket | None:
    """Return the next connection; None when it was lost because this process has too many files open.

    Raises `BlockingIOError` when there is none, and `EOFError` when the parent has ended.
    """
    data, files, _, _ = socket.recv_fds(channel, 1, 1)
    if not data:
        raise EOFError("the parent has ended")
    return socket.socket(fileno=files[0]) if files else None
