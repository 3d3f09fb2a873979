"""The page that a browser loads first: readable before any script, and what a request gets."""

import gzip
import re
from pathlib import Path

import streamlit

from dashboard.navigation import MENU
from dashboard.server.assets import CompressedAssets
from dashboard.server.index import STATIC, IndexPage, build_index
from dashboard.server.security import build_content_policy
from tests.unit.test_dashboard_security import answer, ask

FOLDER = Path(streamlit.__file__).with_name("static")


def fetch(path: str, *, query: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
    """Return status, headers and text of a request."""
    app = IndexPage(answer, folder=FOLDER)
    start, body = ask(app, path, headers=headers, query_string=query.encode())[:2]
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    data = body["body"]
    return start["status"], found, (gzip.decompress(data) if "content-encoding" in found else data).decode()


def test_the_first_page_can_be_read_without_scripts() -> None:
    """It shows name, content and the loading text, and no advertisement of Streamlit."""
    _, headers, html = fetch("/leaderboards")
    text = re.sub(r"<(style|script|noscript).*?</\1>|<[^>]+>", "", html, flags=re.DOTALL)
    assert "Echo Markets" in text
    assert "Loading" in text
    assert all(page in text for page in MENU)
    assert "<title>Echo Markets</title>" in html
    assert "agent" not in html
    assert headers["cache-control"] == "no-cache"


def test_streamlits_page_still_has_what_is_changed() -> None:
    """An update of Streamlit that moves one of the parts fails here."""
    html = build_index(
        (FOLDER / "index.html").read_text(encoding="utf-8"),
        shell=b"1",
        styles="p {}",
        icon=b"<svg/>",
        scripts=["embed.abc.js", "PlotlyChart.abc.js"],
    )
    assert 'href="./static/js/embed.abc.js"' in html
    assert "PlotlyChart" not in html
    for gone in ("SourceSans", "service-desc", "favicon.png", "<!--"):
        assert gone not in html
    # before Streamlit's script, which it must precede
    assert html.index("./shell.js?v=") < html.index('<script type="module"')
    assert '<div id="root"></div>' in html
    css = next((FOLDER / "static" / "css").glob("index.*.css"))
    assert b"font-family:Source Sans;" in css.read_bytes()


def test_the_content_policy_still_fits_the_page(tmp_path: Path) -> None:
    """The changed page has no inline script that Streamlit's does not have."""
    changed = tmp_path / "index.html"
    changed.write_text(fetch("/")[2], encoding="utf-8")
    assert build_content_policy(changed) == build_content_policy(FOLDER / "index.html")


def test_overview_has_an_address_like_the_others() -> None:
    """The query string is kept; the address is relative, so that a proxy may add a path before it."""
    status, headers, _ = fetch("/overview", query="live=false&x=1")
    assert (status, headers["location"]) == (307, "./?live=false&x=1")
    assert fetch("/overview")[1]["location"] == "./"


def test_the_script_is_kept_by_the_browser() -> None:
    """Its address changes with its content, and it is compressed for clients that accept that."""
    _, headers, script = fetch("/shell.js", **{"accept-encoding": "gzip"})
    assert script == (STATIC / "shell.js").read_text(encoding="utf-8")
    assert "immutable" in headers["cache-control"]
    assert headers["content-encoding"] == "gzip"


def test_all_else_is_streamlits() -> None:
    """Streamlit answers unknown pages, and addresses with a slash at their end."""
    for path in ("/nowhere", "/leaderboards/", "/livez"):
        assert fetch(path)[2] == "page"


def test_the_font_that_no_theme_uses_is_not_sent() -> None:
    """It would be a tenth of a first visit."""
    assets = CompressedAssets(answer, folder=FOLDER / "static", icons=STATIC / "material-symbols.woff2")
    css = next((FOLDER / "static" / "css").glob("index.*.css"))
    sent = ask(assets, f"/static/css/{css.name}", headers={"accept-encoding": "gzip"})
    assert b"Source Sans;" not in gzip.decompress(sent[1]["body"])
