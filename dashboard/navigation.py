"""The list of pages, the logo and the style sheet, which are the same in every run of the script.

All are read once per process: Streamlit would resolve each page's file and read each picture in every run.
"""

from base64 import b64encode
from copy import copy
from functools import cache
from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

STATIC = Path(__file__).parent / "static"

MENU = ("overview", "leaderboards", "players", "portfolios", "market", "quests", "operations")
"""The pages in the order of the menu, the default first; each is a folder, an address and a title."""

SCRIPTS = {page: f"pages/{page}/page.py" for page in MENU} | {
    "troubleshooting": "pages/operations/troubleshooting.py"
}
"""The script of each page, relative to `app.py`; the last page is not in the menu, only links lead to it."""


def list_pages() -> tuple[StreamlitPage, ...]:
    """Return the pages in the order of the menu. Only callable from a script.

    Each run gets copies: Streamlit sets a flag in a page object that allows it to run, and runs overlap.
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
    """Return the title of a browser tab: first what differs between tabs, which may be cut off."""
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
