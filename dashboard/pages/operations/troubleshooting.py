"""Troubleshooting: the sections of `docs/troubleshooting.md`; links lead to their anchors."""

import streamlit as st

from core.installation import TROUBLESHOOTING
from dashboard.pages.operations.advice import read_sections


def show_troubleshooting() -> None:
    """Show every section under the anchor that links use."""
    sections = read_sections()
    if not sections:
        st.title("Troubleshooting", anchor=False)
        st.caption(f"{TROUBLESHOOTING.name} is missing from this installation; see the repository's copy.")
    for section in sections:
        heading = st.title if section is sections[0] else st.header
        heading(section.title, anchor=section.anchor)
        st.markdown(section.text)


show_troubleshooting()
