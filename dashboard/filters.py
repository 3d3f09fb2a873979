"""Filters that are part of a page's address, and the search for a player.

Each filter widget is bound to a query parameter, so every view has its own link. Streamlit silently drops a
value that is not an option of the widget; therefore these functions read the parameter first, and report it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import date
from functools import partial
from typing import TypeVar

import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.runtime.scriptrunner import get_script_run_ctx

from core import EnhancedDatabaseService
from core.records import User
from dashboard import data, live, states
from dashboard.formats import escape_markdown

T = TypeVar("T")

NAME_LETTERS = 100
USERNAME_LETTERS = 50
SHOWN_LETTERS = 60
"""Letters of an unknown value or name that a page quotes; the rest is cut off."""

_chosen: ContextVar[list[str] | None] = ContextVar("chosen", default=None)
"""The selected values of the filters inside `fold`."""


@contextmanager
def fold() -> Iterator[None]:
    """Collapse the filters shown in this context on a small screen, below a switch that names their values.

    Use it once per page. The style sheet hides the switch on a large screen and the filters on a small one.
    """
    switch = st.container(key="filters-switch")
    chosen: list[str] = []
    token = _chosen.set(chosen)
    try:
        with st.container(key="filters"):
            yield
    finally:
        _chosen.reset(token)
    switch.toggle(f"Filters: {escape_markdown(' · '.join(chosen))}", key="filters-open")


def note_chosen(value: object) -> None:
    """Add a value to the label of the collapsed filters; does nothing outside `fold` or without a value."""
    chosen = _chosen.get()
    if chosen is not None and value not in ("", None):
        chosen.append(str(value))


def find_parameter(name: str) -> str | None:
    """Return the value of a query parameter of the address, or None."""
    # get_all is faster for a missing parameter: `get` raises and catches an exception
    values = st.query_params.get_all(name)
    return values[-1].strip() if values and values[-1] else None


def find_day(name: str) -> date | None:
    """Return the date in a query parameter; None when the parameter is missing or no date."""
    try:
        return date.fromisoformat(find_parameter(name) or "")
    except ValueError:
        return None


def translate_parameter(name: str, translations: Mapping[str, str]) -> None:
    """Replace a technical value in the address (a category's key) by the widget's option.

    Runs the page again after a replacement. Only a link that was just opened can hold a technical value, so
    the parameter is left unchanged once its widget exists.
    """
    value = translations.get(find_parameter(name) or "")
    if value is None:
        return
    try:
        st.query_params[name] = value
    except StreamlitAPIException:
        return
    st.rerun()


def keep_in_address(defaults: Mapping[str, object]) -> None:
    """Write the values of these widgets into the address, except for defaults.

    Call it in a callback before changing another bound widget: Streamlit then rewrites the address from the
    state it had when the page was opened, and would lose later choices.
    """
    context = get_script_run_ctx()
    if context is None:
        return
    with context.session_state.query_params() as parameters:
        for key, default in defaults.items():
            value = st.session_state.get(key, default)
            if value in (default, None, ""):
                parameters.discard_param_no_forward_msg(key)
            else:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                parameters.set_with_no_forward_msg(key, text)


def find_unknown(name: str, options: Collection[str]) -> str | None:
    """Return the parameter's value when it is none of the options, otherwise None."""
    value = find_parameter(name)
    return None if value is None or value in options else value


def show_unknown(noun: str, value: str, *, instead: str) -> None:
    """Say that the address asks for an unknown value, and what is shown instead."""
    shown = escape_markdown(value[:SHOWN_LETTERS])
    st.warning(f"There is no {noun} “{shown}”. Showing {escape_markdown(instead)} instead.")


def select_option(
    label: str,
    options: Collection[str],
    *,
    key: str,
    noun: str,
    describe: Callable[[str], str] = str,
    disabled: bool = False,
    is_kept: bool = False,
    on_change: Callable[[], None] | None = None,
) -> str:
    """Show a select box and return its value; report an unknown value in the address.

    The address omits the first option, unless `is_kept` is set. Set it if the first option changes over time
    (such as the newest session), so that a link shows the same view later.
    """
    unknown = find_unknown(key, options)
    if is_kept and st.session_state.get(key) is None and (unknown or find_parameter(key) is None):
        st.session_state[key] = next(iter(options))
    with _group(needed=unknown is not None):
        chosen = st.selectbox(
            label,
            list(options),
            index=None if is_kept else 0,
            key=key,
            bind="query-params",
            on_change=on_change,
            disabled=disabled,
        )
        selected = next(iter(options)) if chosen is None else chosen
        if unknown:
            show_unknown(noun, unknown, instead=describe(selected))
    if not disabled:
        note_chosen(describe(selected))
    return selected


def select_segment(
    label: str,
    options: Sequence[T],
    *,
    default: T,
    key: str,
    noun: str,
    describe: Callable[[T], str] = str,
    disabled: bool = False,
    on_change: Callable[[], None] | None = None,
) -> T:
    """Show a row of options and return the selected one; report an unknown value in the address."""
    unknown = find_unknown(key, [str(option) for option in options])
    with _group(needed=unknown is not None):
        selected: T = st.segmented_control(
            label,
            options,
            default=default,
            required=True,
            key=key,
            wrap=True,
            bind="query-params",
            on_change=on_change,
            disabled=disabled,
        )
        if unknown:
            show_unknown(noun, unknown, instead=describe(selected))
    if not disabled:
        note_chosen(describe(selected))
    return selected


def _group(*, needed: bool) -> AbstractContextManager[object]:
    """Return a container that keeps a widget and its warning in one grid cell, or an empty context."""
    return st.container() if needed else nullcontext()


def enter_player(
    label: str,
    *,
    key: str,
    placeholder: str,
    letters: int = NAME_LETTERS,
    on_change: Callable[[], None] | None = None,
) -> str:
    """Show a search box for a player and return the text in it."""
    typed = st.text_input(
        label,
        key=key,
        placeholder=placeholder,
        live=True,
        max_chars=letters,
        bind="query-params",
        on_change=on_change,
    )
    name = (typed or "").strip()
    note_chosen(name)
    return name


def enter_prefix(*, key: str, on_change: Callable[[], None]) -> str:
    """Show a search box for the first letters of a username and return the text in it."""
    return enter_player(
        "Find a player",
        key=key,
        placeholder="First letters of a username",
        letters=USERNAME_LETTERS,
        on_change=on_change,
    )


def show_matches(
    service: EnhancedDatabaseService, name: str, *, key: str, filters: Mapping[str, object]
) -> None:
    """Show the players whose name starts with the text, or say that there are none.

    `key` is the key of the search box. `filters` maps the keys of the page's filters to their defaults; the
    address keeps the current values of these filters.
    """
    live.show_section(
        ("matches", name),
        load=partial(data.search_players, service, name),
        show=partial(_show_matches, name, key=key, filters=filters),
    )


def _show_matches(name: str, found: Sequence[User], *, key: str, filters: Mapping[str, object]) -> None:
    names = [user.username for user in found]
    if not names:
        states.show_empty(
            "unknown-player",
            f"No player is called “{escape_markdown(name[:SHOWN_LETTERS])}”",
            "Check the spelling, or type only the first letters above: players whose username or name "
            "starts with them are listed as you type.",
        )
        return
    st.header(f"Players starting with “{escape_markdown(name)}”", anchor=False)
    show_player_buttons(names, key=key, filters=filters)
    if len(names) == data.MATCHES_SHOWN:
        st.caption(f"The first {data.MATCHES_SHOWN} players. Type more letters to narrow the list.")


def show_player_buttons(names: Iterable[str], *, key: str, filters: Mapping[str, object]) -> None:
    """Show a button for each player that puts the player's name into the search box and the address."""

    def select(name: str) -> None:
        keep_in_address({other: default for other, default in filters.items() if other != key})
        st.session_state[key] = name

    with st.container(horizontal=True, gap="small"):
        for name in names:
            st.button(escape_markdown(name), key=f"choose-{key}-{name}", on_click=select, args=(name,))
