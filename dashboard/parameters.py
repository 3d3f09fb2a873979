"""What a link asks for, and what to say when it asks for something that is not there.

Owns reading the address's query parameters before a widget takes them over. Widgets
bound to a parameter write the address themselves; a value that is none of their options
is dropped there without a word, which is why it is looked at here first.
"""

from collections.abc import Collection, Mapping
from datetime import date

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.formats import escape_markdown


def find_parameter(name: str) -> str | None:
    """Return the value that the address has for this parameter, or None."""
    # all of it, because asking for one that is missing costs an exception
    values = st.query_params.get_all(name)
    return values[-1].strip() if values and values[-1] else None


def find_day(name: str) -> date | None:
    """Return the parameter's date, or None when it is missing or no date."""
    try:
        return date.fromisoformat(find_parameter(name) or "")
    except ValueError:
        return None


def translate_parameter(name: str, translations: Mapping[str, str]) -> None:
    """Rewrite a technical value in the address (a category's key) to the widget's option.

    Runs the page again when it changed something. Leaves a parameter alone that a widget
    has taken over already: only a fresh link can hold a technical value.
    """
    value = translations.get(find_parameter(name) or "")
    if value is None:
        return
    try:
        st.query_params[name] = value
    except StreamlitAPIException:
        return
    st.rerun()


def keep_choices(defaults: Mapping[str, object]) -> None:
    """Let the address keep what widgets of these keys say, but for their defaults.

    For a callback that is about to change another bound widget: Streamlit then writes the
    whole address anew, from what it was when the page was opened or last written so.
    """
    context = get_script_run_ctx()
    if context is None:
        return
    with context.session_state.query_params() as known:
        for key, default in defaults.items():
            value = st.session_state.get(key, default)
            if value in (default, None, ""):
                known.discard_param_no_forward_msg(key)
            else:
                known.set_with_no_forward_msg(key, _write(value))


def _write(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def find_unknown(name: str, options: Collection[str]) -> str | None:
    """Return the parameter's value when it is none of the options, otherwise None."""
    value = find_parameter(name)
    return None if value is None or value in options else value


def show_unknown(what: str, value: str, *, instead: str) -> None:
    """Say that a link asked for something unknown and what is shown instead."""
    shown = escape_markdown(value[:60])
    st.warning(f"There is no {what} “{shown}”. Showing {escape_markdown(instead)} instead.")
