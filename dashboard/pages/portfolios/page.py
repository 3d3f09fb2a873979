"""The script of the Portfolios page: the sessions, gains, ranks and quests of one player.

The search box is bound to the query parameter `player`, so each player has a link. The page only reads: it
does not create a portfolio for a player who has none.
"""

from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import User
from dashboard import filters, live, navigation, runtime, states
from dashboard.categories import KNOWN_CATEGORIES
from dashboard.data import find_player, list_categories
from dashboard.formats import format_day
from dashboard.pages.portfolios import data, sections
from dashboard.pages.portfolios.data import Player

DEFAULT_WINDOW = "90 days"
FILTERS = {
    "player": "",
    "rival": "",
    "window": DEFAULT_WINDOW,
    "board": KNOWN_CATEGORIES[0].name,
}
"""The default of each filter by its key."""

REFRESH_SECONDS = 30


def show_portfolios() -> None:
    """Show the Portfolios page for the filters in the address."""
    service = runtime.get_service()
    live.show_heading("Portfolios")
    name, rival_name, window = _show_filters()
    if not name:
        live.show_live(partial(_suggest_players, service), seconds=REFRESH_SECONDS)
        return
    with live.loading():
        user = live.read(("player", name), partial(find_player, service, name))
    if user is None:
        filters.show_matches(service, name, key="player", filters=FILTERS)
        return
    st.set_page_config(page_title=navigation.name_tab(user.username))
    rival = _find_rival(service, rival_name, user) if rival_name else None
    live.show_live(partial(_show_players, service, user, rival, window), seconds=REFRESH_SECONDS)
    st.caption(
        "Gains of finished sessions can be up to five minutes old, the leader two. "
        "All times and session dates are in UTC."
    )


def _show_filters() -> tuple[str, str, str]:
    first, second, third = st.columns([2, 2, 3])
    with first:
        name = filters.show_player_search(
            "Find a player", key="player", placeholder="First letters of a username or name"
        )
    with second:
        rival = filters.show_player_search("Compare with", key="rival", placeholder="Another player")
    with third:
        window = filters.select_segment(
            "Window", list(data.WINDOWS), default=DEFAULT_WINDOW, key="window", noun="window"
        )
    return name, rival, window


def _suggest_players(service: EnhancedDatabaseService) -> None:
    if st.session_state.get("player"):
        # a button of this live part has filled the search box, so the whole page must run again
        st.rerun()
    live.show_section(
        "portfolios-suggestions", load=partial(data.load_suggestions, service), show=_show_suggestions
    )


def _show_suggestions(found: data.Suggestions) -> None:
    if found.names:
        st.header("Best players of the newest session", anchor=False)
        filters.show_player_buttons(found.names, key="player", filters=FILTERS)
    elif found.has_sessions:
        st.caption("Type a username above to see the player's sessions, ranks and quests.")
    else:
        states.show_no_sessions()


def _find_rival(service: EnhancedDatabaseService, name: str, player: User) -> User | None:
    """Return the player to compare with. If there is none, show matching names or the reason; return None."""
    rival = live.read(("player", name), partial(find_player, service, name))
    if rival is None:
        filters.show_matches(service, name, key="rival", filters=FILTERS)
    elif rival.id == player.id:
        st.info("Choose another player to compare with: both are the same.")
        return None
    return rival


def _show_players(service: EnhancedDatabaseService, user: User, rival: User | None, window: str) -> None:
    live.show_section(
        ("portfolio", user.id, rival.id if rival else None, window),
        load=partial(data.load_players, service, user, rival, window),
        show=partial(_show_pair, service, user, rival),
    )


def _show_pair(
    service: EnhancedDatabaseService,
    user: User,
    other: User | None,
    found: tuple[Player | None, Player | None],
) -> None:
    player, rival = found
    if player is None:
        states.show_not_played(user.username)
        return
    if other is not None and rival is None:
        states.show_not_played(other.username)
    _show_player(service, player, rival)


def _show_player(service: EnhancedDatabaseService, player: Player, rival: Player | None) -> None:
    sections.show_newest_session(player)
    if rival is not None:
        sections.show_side_by_side(player, rival)
    if player.is_one_session:
        _show_one_session(service, player)
        return
    ranks, record = st.columns(2, gap="medium")
    with ranks:
        _show_ranks(service, player)
    with record:
        sections.show_record(player)
    if not player.history:
        _show_quests(service, player.user)
        sections.show_profile(player.user)
        return
    key = (player.user.id, player.window)
    _show_gains(service, player)
    left, right = st.columns([5, 3], gap="medium")
    with left:
        live.show_section(
            ("portfolio-equity", *key),
            load=partial(data.load_equity, service, player),
            show=partial(sections.show_equity, player, rival),
        )
        sections.show_changes(player)
    with right:
        _show_quests(service, player.user)
        _show_rank_history(service, player)
        sections.show_holdings(player)
    sections.show_sessions(player)
    sections.show_profile(player.user)


def _show_one_session(service: EnhancedDatabaseService, player: Player) -> None:
    """Show the newest session only: gains, ranks, quests and profile, without charts of several sessions."""
    _show_gains(service, player)
    _show_ranks(service, player)
    _show_quests(service, player.user)
    sections.show_profile(player.user)


def _show_gains(service: EnhancedDatabaseService, player: Player) -> None:
    live.show_section(
        ("portfolio-gains", player.user.id, player.window, player.newest.session_date),
        load=partial(data.load_gains, service, player),
        show=partial(sections.show_gains, player),
    )


def _show_ranks(service: EnhancedDatabaseService, player: Player) -> None:
    day = player.newest.session_date
    st.header(
        "Ranks in today's session, so far" if player.is_open else f"Ranks on {format_day(day)}", anchor=False
    )
    live.show_section(
        ("portfolio-ranks", player.user.id, day),
        load=partial(data.load_ranks, service, player.user, day),
        show=sections.show_ranks,
    )


def _show_quests(service: EnhancedDatabaseService, user: User) -> None:
    st.header("Running quests", anchor=False)
    live.show_section(
        ("portfolio-quests", user.id),
        load=partial(data.load_quests, service, user),
        show=sections.show_quests,
    )


def _show_rank_history(service: EnhancedDatabaseService, player: Player) -> None:
    st.header("Rank over time", anchor=False)
    newest = player.newest.session_date
    found = live.read(("categories", newest), partial(list_categories, service, newest))
    categories = {item.name: item for item in found}
    category = categories[filters.select_option("Category", categories, key="board", noun="category")]
    live.show_section(
        ("portfolio-rank-history", player.user.id, player.window, category.key),
        load=partial(data.load_rank_history, service, player, category),
        show=partial(sections.show_rank_chart, player, category),
    )


show_portfolios()
