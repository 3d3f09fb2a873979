"""Page objects, the style sheet and the loading spinner of the pages."""

from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import navigation


def test_each_run_has_pages_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run gets copies of the page objects, because Streamlit changes the object of the running page."""
    monkeypatch.setattr(navigation, "_create_pages", lambda: (SimpleNamespace(may_run=False),))
    (first,) = navigation.list_pages()
    vars(first)["may_run"] = True
    (second,) = navigation.list_pages()
    assert not vars(second)["may_run"]


def test_the_style_sheet_is_one_style_element() -> None:
    """The element has only the style sheet; otherwise Streamlit gives it space on the page."""
    styles = navigation.read_styles()
    assert styles.startswith("<style>")
    assert styles.endswith("</style>")
    assert styles.count("<") == 2


def show_title() -> None:
    """Show a heading as a page does, and the type of the loading context."""
    import streamlit as st  # noqa: PLC0415  # Streamlit runs the function's text elsewhere

    from dashboard import live  # noqa: PLC0415  # likewise

    live.show_heading(st.query_params.get("title", "Overview"))
    st.text(type(live.loading()).__name__)


def test_a_page_shows_a_spinner_only_in_its_first_run() -> None:
    """The first run of a page shows a loading spinner; the next run of the same page shows none."""
    test = AppTest.from_function(show_title).run()
    announced = [test.text[0].value, test.run().text[0].value]
    test.query_params["title"] = "Market"
    announced += [test.run().text[0].value, test.run().text[0].value]
    assert announced == ["_GeneratorContextManager", "nullcontext"] * 2
