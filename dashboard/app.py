"""The script that Streamlit runs for every page: frame, navigation, error states.

Owns what all pages share. Never reads data; each page is a file of its own in
`views` (a folder called `pages` would make Streamlit draw a menu of its own as well).
"""

from pathlib import Path

import streamlit as st

from dashboard import access_gate, runtime, states

FOLDER = Path(__file__).parent
PAGES = (
    st.Page("views/overview.py", title="Overview", url_path="overview", default=True),
    st.Page("views/leaderboards.py", title="Leaderboards", url_path="leaderboards"),
    st.Page("views/portfolios.py", title="Portfolios", url_path="portfolios"),
    st.Page("views/market.py", title="Market", url_path="market"),
    st.Page("views/quests.py", title="Quests", url_path="quests"),
    st.Page("views/operations.py", title="Operations", url_path="operations"),
    st.Page(
        "views/troubleshooting.py", title="Troubleshooting", url_path="troubleshooting", visibility="hidden"
    ),
)

st.set_page_config(page_title="Echo Markets", page_icon=str(FOLDER / "static" / "icon.svg"), layout="wide")
st.logo(str(FOLDER / "static" / "logo.svg"), icon_image=str(FOLDER / "static" / "logo.svg"))
st.html(FOLDER / "static" / "contrast.css")
page = st.navigation(PAGES, position=access_gate.choose_menu())
with runtime.timed_render(page.title):
    states.run_page(access_gate.guard(page.run))
