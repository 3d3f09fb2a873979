"""The script that Streamlit runs for every page: frame, navigation, error states.

Owns what all pages share. Never reads data; each page is a file of its own in
`views` (a folder called `pages` would make Streamlit draw a menu of its own as well).
"""

import streamlit as st

from dashboard import access_gate, page_frame, runtime, states

st.set_page_config(page_title="Echo Markets", page_icon=page_frame.read_icon(), layout="wide")
st.logo(page_frame.read_logo())
st.html(page_frame.read_styles())
page = st.navigation(page_frame.list_pages(), position=access_gate.choose_menu())
with runtime.timed_render(page.title):
    states.run_page(access_gate.guard(page.run))
