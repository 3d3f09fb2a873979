"""Filters that are part of a page's address, and the search for a player.

Each filter widget is bound to a query parameter, so a link opens the page with the same filters. Streamlit
silently drops a parameter whose value is not an option of its widget. The functions here read the parameter
before the widget does, and tell the visitor about an unknown value.
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
"""Maximum number of letters of an unknown value or name that a page quotes; it cuts off the rest."""

_selected: ContextVar[list[str] | None] = ContextVar("selected", default=None)
"""Selected values of the filters inside `collapse_filters`, for its switch; None outside of it."""


@contextmanager
def collapse_filters() -> Iterator[None]:
    """Context manager: on a small screen, a switch shows and hides the filters of the `with` block.

    The label of the switch names the selected values. The style sheet hides the switch on a large screen, and
    the filters on a small screen while the switch is off. Use it once per page.
    """
    switch = st.container(key="filters-switch")
    selected: list[str] = []
    token = _selected.set(selected)
    try:
        with st.container(key="filters"):
            yield
    finally:
        _selected.reset(token)
    switch.toggle(f"Filters: {escape_markdown(' · '.join(selected))}", key="filters-open")


def add_selected(value: object) -> None:
    """Add a selected value to the label of the switch of `collapse_filters`. Ignores None and `""`."""
    selected = _selected.get()
    if selected is not None and value not in ("", None):
        selected.append(str(value))


def find_parameter(name: str) -> str | None:
    """Return the value of a query parameter in the address; None if it is missing or empty."""
    # `get_all` is faster than `get`, which raises and catches an exception for a missing parameter
    values = st.query_params.get_all(name)
    return values[-1].strip() if values and values[-1] else None


def find_day(name: str) -> date | None:
    """Return the date in a query parameter; None if the parameter is missing or is not a date."""
    try:
        return date.fromisoformat(find_parameter(name) or "")
    except ValueError:
        return None


def translate_parameter(name: str, translations: Mapping[str, str]) -> None:
    """Replace a key in the address by the widget's option: `daily_returns` by `Daily return`.

    Runs the page again after a replacement. Only the address of a newly opened link can contain such a key.
    After the widget has been shown once, Streamlit does not let a script change its parameter, and this
    function does nothing.
    """
    value = translations.get(find_parameter(name) or "")
    if value is None:
        return
    try:
        st.query_params[name] = value
    except StreamlitAPIException:
        return
    st.rerun()


def write_to_address(defaults: Mapping[str, object]) -> None:
    """Write the current values of filters, and of the Live switch, into the address, except for defaults.

    `defaults` maps the key of each filter to its default. Call this in a callback that sets another widget
    whose value is in the address. After such a callback, Streamlit restores the address with which the page
    was opened. Without this call, all filter values selected since the page was opened would be lost.
    """
    context = get_script_run_ctx()
    if context is None:
        return
    with context.session_state.query_params() as parameters:
        for key, default in {**defaults, "live": True}.items():
            value = st.session_state.get(key, default)
            if value in (default, None, ""):
                parameters.discard_param_no_forward_msg(key)
            else:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                parameters.set_with_no_forward_msg(key, text)


def find_unknown(name: str, options: Collection[str]) -> str | None:
    """Return the value of a query parameter if it is not one of the options, else None."""
    value = find_parameter(name)
    return None if value is None or value in options else value


def show_unknown(noun: str, value: str, *, instead: str) -> None:
    """Show a warning: there is no `noun` with this `value`, so the page shows `instead`."""
    shown = escape_markdown(value[:SHOWN_LETTERS])
    st.warning(f"There is no {noun} “{shown}”. Showing {escape_markdown(instead)} instead.")


def select_option(
    label: str,
    options: Collection[str],
    *,
    key: str,
    noun: str,
    describe: Callable[[str], str] = str,
    disabled_because: str | None = None,
    is_kept: bool = False,
    on_change: Callable[[], None] | None = None,
) -> str:
    """Show a select box and return the selected option; warn about an unknown value in the address.

    The first option is the default, and the address omits it. `disabled_because` disables the box and is its
    help text. With `is_kept`, the address names the first option too. Use `is_kept` if the first option
    changes over time: a link then always selects the same option.
    """
    unknown = find_unknown(key, options)
    if is_kept and st.session_state.get(key) is None and (unknown or find_parameter(key) is None):
        st.session_state[key] = next(iter(options))
    with _group(needed=unknown is not None):
        choice = st.selectbox(
            label,
            list(options),
            index=None if is_kept else 0,
            key=key,
            bind="query-params",
            on_change=on_change,
            disabled=disabled_because is not None,
            help=disabled_because,
        )
        selected = next(iter(options)) if choice is None else choice
        if unknown:
            show_unknown(noun, unknown, instead=describe(selected))
    if disabled_because is None:
        add_selected(describe(selected))
    return selected


def select_segment(
    label: str,
    options: Sequence[T],
    *,
    default: T,
    key: str,
    noun: str,
    describe: Callable[[T], str] = str,
    disabled_because: str | None = None,
    on_change: Callable[[], None] | None = None,
) -> T:
    """Show a row of options and return the selected option; warn about an unknown value in the address.

    `disabled_because` disables the options and is their help text.
    """
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
            disabled=disabled_because is not None,
            help=disabled_because,
        )
        if unknown:
            show_unknown(noun, unknown, instead=describe(selected))
    if disabled_because is None:
        add_selected(describe(selected))
    return selected


def _group(*, needed: bool) -> AbstractContextManager[object]:
    """Return a container if it is `needed`: it puts a widget and its warning into one cell of a grid."""
    return st.container() if needed else nullcontext()


def show_player_search(
    label: str,
    *,
    key: str,
    placeholder: str,
    letters: int = NAME_LETTERS,
    on_change: Callable[[], None] | None = None,
) -> str:
    """Show a search box for a player, and return the text in the box."""
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
    add_selected(name)
    return name


def show_prefix_search(*, key: str, on_change: Callable[[], None]) -> str:
    """Show a search box for the first letters of a username, and return the text in the box."""
    return show_player_search(
        "Find a player",
        key=key,
        placeholder="First letters of a username",
        letters=USERNAME_LETTERS,
        on_change=on_change,
    )


def show_matches(
    service: EnhancedDatabaseService, name: str, *, key: str, filters: Mapping[str, object]
) -> None:
    """Show a button for each player whose username or name starts with `name`, or say that there is none.

    `key` is the key of the search box that a button fills. `filters` maps the keys of the page's filters to
    their defaults; a click keeps their current values in the address.
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
    """Show a button for each player. A click puts the player's name into the search box with this key.

    `filters` is the same as in `show_matches`.
    """

    def select(name: str) -> None:
        write_to_address({other: default for other, default in filters.items() if other != key})
        st.session_state[key] = name

    with st.container(horizontal=True, gap="small"):
        for name in names:
            st.button(escape_markdown(name), key=f"choose-{key}-{name}", on_click=select, args=(name,))
