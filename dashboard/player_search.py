"""Finding a player: the search boxes of the portfolios page and who they offer.

Owns the boxes and their query parameters. What is typed lists players at once; choosing one
puts the name into the box, and with it into the address.
"""

from collections.abc import Iterable

import streamlit as st

from core import EnhancedDatabaseService
from core.records import User
from dashboard import data, parameters, states
from dashboard.formats import KNOWN_CATEGORIES, escape_markdown

WINDOWS = (30, 90, 250, 1000)
DEFAULT_WINDOW = 90
NAME_LETTERS = 100
FILTERS = {
    "player": "",
    "rival": "",
    "sessions": DEFAULT_WINDOW,
    "board": KNOWN_CATEGORIES[0].name,
    "live": True,
}
"""The page's filters and what each says unless somebody chose."""


def choose_view() -> tuple[str, str, int]:
    """Show the search boxes and the window and return what they say."""
    columns = st.columns([3, 3, 2])
    names = [
        columns[place].text_input(
            label,
            key=key,
            placeholder=placeholder,
            live=True,
            max_chars=NAME_LETTERS,
            bind="query-params",
        )
        for place, (label, key, placeholder) in enumerate(
            (
                ("Find a player", "player", "Type the first letters of a username or name"),
                ("Compare with", "rival", "Another player, for both side by side"),
            )
        )
    ]
    unknown = parameters.find_unknown("sessions", [str(window) for window in WINDOWS])
    window = columns[2].segmented_control(
        "Sessions shown",
        WINDOWS,
        default=DEFAULT_WINDOW,
        required=True,
        key="sessions",
        wrap=True,
        bind="query-params",
    )
    if unknown:
        parameters.show_unknown("number of sessions", unknown, instead=f"{window} sessions")
    return (names[0] or "").strip(), (names[1] or "").strip(), window


def find_rival(service: EnhancedDatabaseService, name: str, *, besides: User) -> User | None:
    """Return the player to compare with; offer who may be meant, or say why there is none."""
    user = data.find_player(service, name)
    if user is None:
        show_matches(service, name, key="rival")
        return None
    if user.id == besides.id:
        st.info("Choose another player to compare with: both are the same.")
        return None
    return user


def show_suggestions(service: EnhancedDatabaseService) -> None:
    """Offer players to start with, or say that there are none."""
    names = data.suggest_players(service)
    if names:
        st.subheader("Start with the best of the newest session", anchor=False)
        show_choices(names, key="player")
    elif service.list_session_dates(limit=1):
        st.caption("Type a username above to see the player's sessions, ranks and quests.")
    else:
        states.show_empty_database()


def show_matches(service: EnhancedDatabaseService, name: str, *, key: str) -> None:
    """Offer the players whose name starts with what was typed, or say that there are none."""
    names = [user.username for user in data.search_players(service, name)]
    if not names:
        states.show_unknown_player(name)
        return
    st.subheader(f"Players starting with “{escape_markdown(name)}”", anchor=False)
    show_choices(names, key=key)
    if len(names) == data.MATCHES_LISTED:
        st.caption(f"The first {data.MATCHES_LISTED}; type more letters to narrow them down.")


def show_choices(names: Iterable[str], *, key: str) -> None:
    """Show one button per player; it fills the search box, and with it the address."""
    with st.container(horizontal=True, gap="small"):
        for name in names:
            label = escape_markdown(name)
            st.button(label, key=f"choose-{key}-{name}", on_click=choose, args=(key, name))


def choose(key: str, name: str) -> None:
    """Put a player into one of the search boxes."""
    parameters.keep_choices({other: default for other, default in FILTERS.items() if other != key})
    st.session_state[key] = name
