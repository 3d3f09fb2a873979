"""The list of pages, the logo, the icon and the style sheet: the same for every page and every visitor.

The files are read once per process. Streamlit itself would search the file of each page and read each picture
again in every run of a script.
"""

from base64 import b64encode
from copy import copy
from functools import cache
from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

STATIC = Path(__file__).parent / "static"

MENU = ("overview", "leaderboards", "players", "portfolios", "market", "quests", "operations")
"""The pages in the order of the menu; the first is the default. A name is the page's folder and address."""

SCRIPTS = {page: f"pages/{page}/page.py" for page in MENU} | {
    "troubleshooting": "pages/operations/troubleshooting.py"
}
"""The script of each page, relative to `app.py`. The page `troubleshooting` is opened by links only."""


def list_pages() -> tuple[StreamlitPage, ...]:
    """Return the pages in the order of the menu. Call it only in a script that Streamlit runs.

    Each run gets its own copies, because runs overlap and Streamlit changes a page object before it runs the
    page.
    """
    return tuple(copy(page) for page in _create_pages())


@cache
def _create_pages() -> tuple[StreamlitPage, ...]:
    return tuple(
        st.Page(
            script,
            title=page.capitalize(),
            url_path=page,
            default=page == MENU[0],
            visibility="visible" if page in MENU else "hidden",
        )
        for page, script in SCRIPTS.items()
    )


def name_tab(content: str) -> str:
    """Return the title of a browser tab. It begins with `content`, because browsers cut off its end."""
    return f"{content} - Echo Markets"


@cache
def read_icon() -> str:
    """Return the icon of the browser tab as a data URL."""
    return _build_data_url("icon.svg")


@cache
def read_logo() -> str:
    """Return the logo as a data URL."""
    return _build_data_url("logo.svg")


@cache
def read_styles() -> str:
    """Return the style sheet of all pages as an HTML element."""
    return f"<style>\n{(STATIC / 'pages.css').read_text(encoding='utf-8')}</style>"


def _build_data_url(name: str) -> str:
    return f"data:image/svg+xml;base64,{b64encode((STATIC / name).read_bytes()).decode()}"
