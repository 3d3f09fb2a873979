"""A simulated visitor without a browser, which uses Streamlit's WebSocket protocol.

Owns the connection, the request for a run of a page, and the wait for its end. A visitor only counts the
elements and draws nothing, so that one machine can simulate many visitors.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

RUN_SECONDS = 60.0
"""Time after which a run counts as failed."""

FAILED_STATES = (b"state-problem", b"state-unexpected")
"""Keys of the containers in which the dashboard shows errors."""


class Run(NamedTuple):
    """The result of one run of a page; `problem` is an error on the page, or None."""

    seconds: float
    size_bytes: int
    elements: int
    problem: str | None


class Visitor:
    """A simulated visitor with one session."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        """Yield a visitor that is connected to `url`; close the WebSocket with a close frame at the end."""
        async with connect(
            f"ws://{urlsplit(url).netloc}/_stcore/stream",
            origin=url,  # type: ignore[arg-type]  # Origin is a NewType of str
            subprotocols=[Subprotocol("streamlit")],
            max_size=None,
            ping_interval=None,
        ) as connection:
            yield cls(connection)

    async def run(self, *, page: str = "", query: str = "") -> Run:
        """Request a run of a page, and wait until the run has ended."""
        started = time.perf_counter()
        await self.begin(page=page, query=query)
        size = elements = 0
        problem: str | None = None
        async with asyncio.timeout(RUN_SECONDS):
            while True:
                data = await self._connection.recv()
                assert isinstance(data, bytes)
                size += len(data)
                message = ForwardMsg.FromString(data)
                kind = message.WhichOneof("type")
                elements += kind in {"delta", "ref_hash"}
                problem = problem or _find_problem(message, data)
                if kind == "script_finished" and message.script_finished != (
                    ForwardMsg.ScriptFinishedStatus.FINISHED_EARLY_FOR_RERUN
                ):
                    return Run(time.perf_counter() - started, size, elements, problem)

    async def begin(self, *, page: str = "", query: str = "", texts: Mapping[str, str] | None = None) -> None:
        """Request a run of a page; `texts` maps the id of each text input to its text."""
        message = BackMsg()
        message.rerun_script.page_name = page
        message.rerun_script.query_string = query
        for widget_id, text in (texts or {}).items():
            message.rerun_script.widget_states.widgets.add(id=widget_id, string_value=text)
        await self._connection.send(message.SerializeToString())

    async def receive_run(self) -> bytes:
        """Wait for a run that the server has begun, and return everything that it sends until the end."""
        return b"".join(await self.receive_messages())

    async def receive_messages(self) -> list[bytes]:
        """Return all messages until the end of a run."""
        messages = []
        while True:
            data = await self._connection.recv()
            assert isinstance(data, bytes)
            messages.append(data)
            if ForwardMsg.FromString(data).WhichOneof("type") == "script_finished":
                return messages

    def vanish(self) -> None:
        """Drop the connection without a close frame, as when a laptop is closed."""
        self._connection.transport.abort()


def _find_problem(message: ForwardMsg, data: bytes) -> str | None:
    if message.WhichOneof("type") == "delta" and message.delta.new_element.WhichOneof("type") == "exception":
        return message.delta.new_element.exception.message
    return next((state.decode() for state in FAILED_STATES if state in data), None)
