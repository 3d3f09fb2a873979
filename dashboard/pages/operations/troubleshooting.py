"""The script of the Troubleshooting page: the sections of `docs/troubleshooting.md`."""

import streamlit as st

from core.installation import TROUBLESHOOTING
from dashboard.pages.operations.advice import read_sections


def show_troubleshooting() -> None:
    """Show every section under a heading; a link can open the page at the anchor of the heading."""
    sections = read_sections()
    if not sections:
        st.title("Troubleshooting", anchor=False)
        st.caption(f"{TROUBLESHOOTING.name} is missing from this installation; see the repository's copy.")
    for section in sections:
        heading = st.title if section is sections[0] else st.header
        heading(section.title, anchor=section.anchor)
        st.markdown(section.text)


show_troubleshooting()
