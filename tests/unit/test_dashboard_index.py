"""The HTML page that a browser loads first, and its script and font."""

import gzip
import re
from pathlib import Path

import streamlit

from dashboard.navigation import MENU
from dashboard.server.assets import CompressedAssets
from dashboard.server.index import STATIC, IndexPage, build_index
from dashboard.server.security import build_content_policy
from tests.unit.test_dashboard_security import send_request, serve_page

STREAMLIT_FOLDER = Path(streamlit.__file__).with_name("static")


def fetch(path: str, *, query: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
    """Return status, headers and decompressed body of the response of `IndexPage`."""
    app = IndexPage(serve_page, folder=STREAMLIT_FOLDER)
    start, body = send_request(app, path, headers=headers, query_string=query.encode())[:2]
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    data = body["body"]
    return start["status"], found, (gzip.decompress(data) if "content-encoding" in found else data).decode()


def test_the_first_page_can_be_read_without_scripts() -> None:
    """Before any script runs, the page shows the name, the menu and a loading text."""
    _, headers, html = fetch("/leaderboards")
    text = re.sub(r"<(style|script|noscript).*?</\1>|<[^>]+>", "", html, flags=re.DOTALL)
    assert "Echo Markets" in text
    assert "Loading" in text
    assert all(page in text for page in MENU)
    assert "<title>Echo Markets</title>" in html
    assert "agent" not in html
    assert headers["cache-control"] == "no-cache"


def test_streamlits_page_still_has_the_replaced_parts() -> None:
    """This test fails if an update of Streamlit moves a part of index.html that the dashboard replaces."""
    html = build_index(
        (STREAMLIT_FOLDER / "index.html").read_text(encoding="utf-8"),
        shell=b"1",
        styles="p {}",
        icon=b"<svg/>",
        scripts=["embed.abc.js", "PlotlyChart.abc.js"],
    )
    assert 'href="./static/js/embed.abc.js"' in html
    assert "PlotlyChart" not in html
    for gone in ("SourceSans", "service-desc", "favicon.png", "<!--"):
        assert gone not in html
    # the dashboard's script must run before Streamlit's
    assert html.index("./shell.js?v=") < html.index('<script type="module"')
    assert '<div id="root"></div>' in html
    css = next((STREAMLIT_FOLDER / "static" / "css").glob("index.*.css"))
    assert b"font-family:Source Sans;" in css.read_bytes()


def test_the_content_policy_still_fits_the_page(tmp_path: Path) -> None:
    """The changed page has Streamlit's inline scripts and no other, so its content policy is the same."""
    changed = tmp_path / "index.html"
    changed.write_text(fetch("/")[2], encoding="utf-8")
    assert build_content_policy(changed) == build_content_policy(STREAMLIT_FOLDER / "index.html")


def test_overview_redirects_to_the_root() -> None:
    """/overview redirects to a relative URL, for proxies with a path prefix, and keeps the query string."""
    status, headers, _ = fetch("/overview", query="live=false&x=1")
    assert (status, headers["location"]) == (307, "./?live=false&x=1")
    assert fetch("/overview")[1]["location"] == "./"


def test_the_script_is_cached_and_compressed() -> None:
    """Browsers may cache the script for ever, and a client that accepts gzip gets it compressed."""
    _, headers, script = fetch("/shell.js", **{"accept-encoding": "gzip"})
    assert script == (STATIC / "shell.js").read_text(encoding="utf-8")
    assert "immutable" in headers["cache-control"]
    assert headers["content-encoding"] == "gzip"


def test_other_paths_are_passed_to_streamlit() -> None:
    """Streamlit answers requests for unknown pages and for URLs that end with a slash."""
    for path in ("/nowhere", "/leaderboards/", "/livez"):
        assert fetch(path)[2] == "page"


def test_the_unused_font_is_not_sent() -> None:
    """The style sheet omits Source Sans, an unused font that would be a tenth of a first visit."""
    assets = CompressedAssets(
        serve_page, folder=STREAMLIT_FOLDER / "static", icons=STATIC / "material-symbols.woff2"
    )
    css = next((STREAMLIT_FOLDER / "static" / "css").glob("index.*.css"))
    sent = send_request(assets, f"/static/css/{css.name}", headers={"accept-encoding": "gzip"})
    assert b"Source Sans;" not in gzip.decompress(sent[1]["body"])
