"""The two sockets between a worker of the dashboard and its parent: messages and accepted connections.

Owns the formats of the messages. One socket carries lines of JSON in both directions. On the other one, the
parent passes connections to the worker, each with one byte. End of file on a socket means that the process at
the other end has ended.
"""

import asyncio
import socket

import msgspec


class Ready(msgspec.Struct, tag="ready"):
    """The worker can answer requests."""


class ConnectionLoad(msgspec.Struct, tag="load"):
    """How many connections the worker has received, and how many are open. Sent at least every second."""

    received: int
    open: int


class Enter(msgspec.Struct, tag="enter"):
    """The worker asks whether one more page may open. The answer has the same `number`."""

    number: int
    client: str
    is_known: bool


class Leave(msgspec.Struct, tag="leave"):
    """A page of the worker was closed."""

    client: str
    is_known: bool


class Admission(msgspec.Struct, tag="answer"):
    """The parent's answer to an `Enter` message."""

    number: int
    is_admitted: bool


FromWorker = Ready | ConnectionLoad | Enter | Leave

_encoder = msgspec.json.Encoder()
_from_worker = msgspec.json.Decoder(FromWorker)
_from_parent = msgspec.json.Decoder(Admission)


def send(writer: asyncio.StreamWriter, message: FromWorker | Admission) -> None:
    """Send a message. Does nothing if the process at the other end has ended."""
    if not writer.is_closing():
        writer.write(_encoder.encode(message) + b"\n")


def parse_from_worker(line: bytes) -> FromWorker:
    """Return the message in a line that a worker sent."""
    message: FromWorker = _from_worker.decode(line)
    return message


def parse_from_parent(line: bytes) -> Admission:
    """Return the message in a line that the parent sent."""
    return _from_parent.decode(line)


def send_connection(channel: socket.socket, connection: socket.socket) -> None:
    """Pass a connection to the worker. Raises `OSError`, for example `BlockingIOError` for a full queue."""
    socket.send_fds(channel, [b"c"], [connection.fileno()])


def receive_connection(channel: socket.socket) -> socket.socket | None:
    """Return the next connection. Return None if it was lost because this process has too many open files.

    Raises `BlockingIOError` if no connection waits, and `EOFError` if the parent has ended.
    """
    data, files, _, _ = socket.recv_fds(channel, 1, 1)
    if not data:
        raise EOFError("the parent has ended")
    return socket.socket(fileno=files[0]) if files else None
