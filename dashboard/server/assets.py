"""Sends Streamlit's scripts and styles compressed, and a smaller icon font.

Each file is compressed once, and all compressed files stay in memory, 4 MB in total. Streamlit itself sends
the files uncompressed.
"""

import asyncio
import gzip
import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

ASSETS = "/static/"
ICONS = "MaterialSymbols-Rounded."
"""Start of the file name of Streamlit's icon font. A font with only the used icons is sent in its place.

See docs/decisions/0013-around-the-page.md.
"""
ASSET_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
ASSET_CACHE_CONTROL = "public, immutable, max-age=31536000"
"""Browsers may keep an asset for a year, because its name changes with its content."""

GZIP_LEVEL = 6
"""Compression level. Higher levels take three times as long and make files only 2 % smaller."""
_UNUSED_FONT = re.compile(rb"@font-face\{font-family:Source Sans;[^}]*\}")
"""The CSS rule of Streamlit's default font (170 kB), which browsers would load before they get the theme."""


class CompressedAssets:
    """Sends compressed files of a folder to clients that accept gzip. Passes all other requests on.

    Every client gets the font file `icons` instead of Streamlit's icon font.
    """

    def __init__(self, app: ASGIApp, *, folder: Path, icons: Path) -> None:
        self._app = app
        self._icons = icons.read_bytes()
        self._icon_paths = {
            ASSETS + path.relative_to(folder).as_posix() for path in folder.rglob(f"{ICONS}*.woff2")
        }
        # list the files once, so that no request can reach a file outside the folder
        self._files = {
            ASSETS + path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.suffix in ASSET_TYPES
        }
        self._compressed: dict[str, asyncio.Task[bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a compressed file or the icon font, or pass the request on."""
        if scope["type"] == "http" and scope["path"] in self._icon_paths and scope["method"] == "GET":
            headers = {"Cache-Control": ASSET_CACHE_CONTROL, "Content-Type": "font/woff2"}
            await Response(self._icons, headers=headers)(scope, receive, send)
            return
        if not self._is_asset(scope):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = {
            "Content-Encoding": "gzip",
            "Cache-Control": ASSET_CACHE_CONTROL,
            "Vary": "Accept-Encoding",
            "Content-Type": ASSET_TYPES[self._files[path].suffix],
        }
        body = await self._compress(path)
        await Response(body, headers=headers)(scope, receive, send)

    def _is_asset(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["path"] not in self._files or scope["method"] != "GET":
            return False
        headers = Headers(scope=scope)
        return "gzip" in headers.get("accept-encoding", "") and "range" not in headers

    async def _compress(self, path: str) -> bytes:
        """Return the compressed bytes of a file. Concurrent requests share one compression."""
        task = self._compressed.get(path)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(_read_compressed, self._files[path]))
            self._compressed[path] = task
        # a client that disconnects must not cancel the compression that other clients wait for
        return await asyncio.shield(task)


def _read_compressed(path: Path) -> bytes:
    body = path.read_bytes()
    if path.suffix == ".css":
        body = _UNUSED_FONT.sub(b"", body)
    return gzip.compress(body, GZIP_LEVEL, mtime=0)
