"""The HTML page that the browser loads first, and its script.

Adds the name of the product to Streamlit's `index.html`, and a text that is shown while the browser loads a
megabyte of scripts. Removes fonts that the theme does not use. Streamlit draws everything else.
"""

import gzip
import hashlib
import re
from base64 import b64encode
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboard.navigation import MENU, SCRIPTS
from dashboard.server.assets import ASSET_CACHE_CONTROL

STATIC = Path(__file__).parents[1] / "static"
SHELL = "/shell.js"

DEFERRED = ("ArrowVegaLiteChart", "embed", "DataFrame", "arrowFormatUtils", "recordbatch")
"""Streamlit's scripts for charts and tables. The page requests them early, before Streamlit needs them."""

FIRST = f"""
    <div id="echo-first" role="status">
      <p><strong>Echo Markets</strong></p>
      <p>The dashboard of the game: {", ".join(MENU)}.</p>
      <p>Loading. The first visit loads about one megabyte; later visits start at once.</p>
    </div>"""
NO_SCRIPT = "<noscript><p>The dashboard needs JavaScript. Switch it on for this address.</p></noscript>"


def build_index(html: str, *, shell: bytes, styles: str, icon: bytes, scripts: list[str]) -> str:
    """Return Streamlit's page `html` with this dashboard's script and a text shown while scripts load.

    `scripts` are the file names of Streamlit's scripts. A change is left out if `html` does not have the
    text that it replaces, for example after an update of Streamlit.
    """
    version = hashlib.sha256(shell).hexdigest()[:16]
    image = f"data:image/svg+xml;base64,{b64encode(icon).decode()}"
    wanted = [name for name in scripts if name.partition(".")[0] in DEFERRED]
    early = "".join(
        f'<link rel="modulepreload" crossorigin fetchpriority="low" href="./static/js/{name}">'
        for name in wanted
    )
    changes = (
        (r"<title>.*?</title>", "<title>Echo Markets</title>"),
        (r'<link\s+rel="preload"[^>]*?as="font"[^>]*?>', ""),
        (r'<link\s+rel="service-desc"[^>]*?>', ""),
        (r'<link rel="shortcut icon"[^>]*?>', f'<link rel="icon" href="{image}">'),
        (r'(?=<script type="module")', f'<script defer src=".{SHELL}?v={version}"></script>'),
        (r"(?=</head>)", f"<style>{styles}</style>{early}"),
        (r"<noscript>.*?</noscript>", NO_SCRIPT + FIRST),
        (r"<!--.*?-->", ""),
    )
    for pattern, text in changes:
        html = re.sub(pattern, lambda _, text=text: text, html, flags=re.DOTALL)  # type: ignore[misc]
    return html.strip()


class IndexPage:
    """Serves the page of `build_index` at the address of each page of the menu. Passes other requests on."""

    def __init__(self, app: ASGIApp, *, folder: Path) -> None:
        self._app = app
        shell = (STATIC / "shell.js").read_bytes()
        scripts = sorted(path.name for path in (folder / "static" / "js").glob("*.js"))
        html = build_index(
            (folder / "index.html").read_text(encoding="utf-8"),
            shell=shell,
            styles=(STATIC / "shell.css").read_text(encoding="utf-8"),
            icon=(STATIC / "icon.svg").read_bytes(),
            scripts=scripts,
        )
        # serve no address with a slash at the end, because relative links to scripts would then be wrong
        self._pages = {"/", *(f"/{page}" for page in SCRIPTS if page != MENU[0])}
        self._bodies = {
            "html": (html.encode(), "text/html; charset=utf-8", "no-cache"),
            "shell": (shell, "text/javascript; charset=utf-8", ASSET_CACHE_CONTROL),
        }
        self._compressed = {name: gzip.compress(body, mtime=0) for name, (body, _, _) in self._bodies.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the page or its script, or pass the request on."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path == f"/{MENU[0]}":
            # Streamlit serves the default page only at the address /
            query = scope["query_string"].decode("latin-1")
            answer: Response = RedirectResponse(f"./?{query}" if query else "./", status_code=307)
        elif path in self._pages:
            answer = self._answer("html", scope)
        elif path == SHELL:
            answer = self._answer("shell", scope)
        else:
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)

    def _answer(self, name: str, scope: Scope) -> Response:
        body, content_type, cache_control = self._bodies[name]
        headers = {"Cache-Control": cache_control, "Content-Type": content_type, "Vary": "Accept-Encoding"}
        if "gzip" in Headers(scope=scope).get("accept-encoding", ""):
            return Response(self._compressed[name], headers=headers | {"Content-Encoding": "gzip"})
        return Response(body, headers=headers)
