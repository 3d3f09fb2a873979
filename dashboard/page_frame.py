"""What stands around every page: the pages there are, the logo, styles.

Owns what is the same in every run of a script, read once and kept: Streamlit would resolve each
page's file and read each picture again for every view.
"""

from base64 import b64encode
from copy import copy
from functools import cache
from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

STATIC = Path(__file__).parent / "static"


def list_pages() -> tuple[StreamlitPage, ...]:
    """Return the pages in the order of the menu, as objects of this run's own.

    Copies, because Streamlit notes in the object that it may run, and visitors' runs overlap.
    Only callable from a script.
    """
    return tuple(copy(page) for page in _create_pages())


@cache
def _create_pages() -> tuple[StreamlitPage, ...]:
    return (
        st.Page("views/overview.py", title="Overview", url_path="overview", default=True),
        st.Page("views/leaderboards.py", title="Leaderboards", url_path="leaderboards"),
        st.Page("views/portfolios.py", title="Portfolios", url_path="portfolios"),
        st.Page("views/market.py", title="Market", url_path="market"),
        st.Page("views/quests.py", title="Quests", url_path="quests"),
        st.Page("views/operations.py", title="Operations", url_path="operations"),
        st.Page(
            "views/troubleshooting.py",
            title="Troubleshooting",
            url_path="troubleshooting",
            visibility="hidden",
        ),
    )


@cache
def read_icon() -> str:
    """Return the icon of the browser's tab, as a data address."""
    return _address("icon.svg")


@cache
def read_logo() -> str:
    """Return the logo as a data address."""
    return _address("logo.svg")


@cache
def read_styles() -> str:
    """Return the style sheet of all pages, as HTML."""
    return f"<style>\n{_read('contrast.css')}</style>"


def _address(name: str) -> str:
    return f"data:image/svg+xml;base64,{b64encode(_read(name).encode()).decode()}"


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
