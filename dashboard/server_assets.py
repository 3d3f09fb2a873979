"""Streamlit's scripts and styles, compressed once and kept.

Owns the compressed files in memory, about 4 MB when all were asked for. Streamlit leaves
them as they are, because it would compress them for each request anew, and expects a proxy.
Their names change with their content, so browsers keep them for a year.
"""

import asyncio
import gzip
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/static/"
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
CACHE_CONTROL = "public, immutable, max-age=31536000"
LEVEL = 6
"""Higher ones take three times as long for two per cent."""


class CompressedAssets:
    """Answers for the files below a folder to who takes gzip; passes everything else on."""

    def __init__(self, app: ASGIApp, *, folder: Path) -> None:
        self._app = app
        # a list made beforehand: no request can name a file outside of it
        self._files = {
            PREFIX + path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.suffix in TYPES
        }
        self._compressed: dict[str, asyncio.Task[bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the compressed file, or pass the request on."""
        if not self._is_ours(scope):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = {
            "Content-Encoding": "gzip",
            "Cache-Control": CACHE_CONTROL,
            "Vary": "Accept-Encoding",
            "Content-Type": TYPES[self._files[path].suffix],
        }
        body = await self._compress(path)
        await Response(body, headers=headers)(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["path"] not in self._files or scope["method"] != "GET":
            return False
        headers = Headers(scope=scope)
        return "gzip" in headers.get("accept-encoding", "") and "range" not in headers

    async def _compress(self, path: str) -> bytes:
        """Return a file's compressed bytes; who asks for it meanwhile waits for the same work."""
        task = self._compressed.get(path)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(_read_compressed, self._files[path]))
            self._compressed[path] = task
        # a visitor who leaves must not take the work from the others
        return await asyncio.shield(task)


def _read_compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), LEVEL, mtime=0)
