"""The pages and what is around them: shared by all runs, without one run changing another."""

from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import navigation


def test_each_run_has_pages_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit marks a page object as running; in the page object of another run that raises an error."""
    monkeypatch.setattr(navigation, "_create_pages", lambda: (SimpleNamespace(may_run=False),))
    (first,) = navigation.list_pages()
    vars(first)["may_run"] = True
    (second,) = navigation.list_pages()
    assert not vars(second)["may_run"]


def test_styles_are_only_styles() -> None:
    """Streamlit gives a style sheet no room on the page if the element has nothing else."""
    styles = navigation.read_styles()
    assert styles.startswith("<style>")
    assert styles.endswith("</style>")
    assert styles.count("<") == 2


def show_title() -> None:
    """Show a title as a page does, and whether reading is announced."""
    import streamlit as st  # noqa: PLC0415  # Streamlit runs the function's text elsewhere

    from dashboard import live  # noqa: PLC0415  # likewise

    live.show_heading(st.query_params.get("title", "Overview"))
    st.text(type(live.loading()).__name__)


def test_reading_is_announced_on_a_page_that_was_just_opened() -> None:
    """A page that shows figures already has no spinner; the next page has one again."""
    test = AppTest.from_function(show_title).run()
    announced = [test.text[0].value, test.run().text[0].value]
    test.query_params["title"] = "Market"
    announced += [test.run().text[0].value, test.run().text[0].value]
    assert announced == ["_GeneratorContextManager", "nullcontext"] * 2
