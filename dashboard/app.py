"""The script that Streamlit runs each time a page is shown or refreshed.

Shows the menu, the logo, the style sheet and the health line, requires a sign-in, then runs the page.
"""

import streamlit as st

from dashboard import health_line, navigation, runtime, states
from dashboard.server import sign_in

page = st.navigation(navigation.list_pages(), position=sign_in.choose_menu_position())
st.set_page_config(
    page_title=navigation.name_tab(page.title), page_icon=navigation.read_icon(), layout="wide"
)
st.logo(navigation.read_logo())
st.html(navigation.read_styles())
health_line.show_health_line(sign_in.find_visitor())
with runtime.timed_render(page.title):
    states.run_page(sign_in.require_sign_in(page.run))
