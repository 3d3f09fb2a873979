"""Quests: whether players finish them, what they earn, who is running out of time.

Owns the page's composition. Run by Streamlit as a script for every view; the search box is
the `player` query parameter, so a player's quests are a link. The sums refresh alone.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import QuestTotals, User
from dashboard import data, insight_data, live, parameters, quest_frames, runtime, states
from dashboard.formats import escape_markdown, format_count
from dashboard.market_frames import name_key

SUMS_SECONDS = 60
ROW_PIXELS = 38
ROWS_WITHOUT_SCROLLING = 12
TABLE_PIXELS = (ROWS_WITHOUT_SCROLLING + 1) * ROW_PIXELS + ROW_PIXELS // 2
"""A longer table ends in half a row, which says that it scrolls."""
CARD_PIXELS = 155
NAME_LETTERS = 100


def show_quests() -> None:
    """Show the page for what the address asks for."""
    service = runtime.get_service()
    live.show_heading("Quests")
    with live.placeholder():
        totals = insight_data.list_quest_totals(service)
    if not totals:
        states.show_no_quests()
        return
    live.show_live(partial(show_sums, service), seconds=SUMS_SECONDS)
    show_player(service)
    st.caption("Sums can be up to three minutes old. Every time is UTC.")


def show_sums(service: EnhancedDatabaseService) -> None:
    """Show the quests of everybody: figures, funnel, rewards, what ends soon and what is slow."""
    totals = insight_data.list_quest_totals(service)
    show_figures(totals)
    funnel, rewards = st.columns(2, gap="medium")
    with funnel:
        show_funnel(totals)
    with rewards:
        show_rewards(totals)
        show_slowest(service)
    show_expiring(service)


def show_figures(totals: Sequence[QuestTotals]) -> None:
    """Show all quests in four figures."""
    summary = quest_frames.summarize_quests(totals)
    share = summary.completed_percent
    over = summary.completed + summary.expired
    with st.grid(4, min_column_width=CARD_PIXELS):
        show_figure("Active quests", format_count(summary.active), remark=f"of {format_count(summary.given)}")
        show_figure(
            "Completed", format_count(summary.completed), remark=f"{format_count(summary.expired)} expired"
        )
        show_figure(
            "Completion rate",
            "-" if share is None else f"{share:.1f}%",
            remark=f"of {format_count(over)} ended",
        )
        show_figure("Expiring", format_count(summary.expiring), remark="within 24 hours")


def show_figure(label: str, value: str, *, remark: str) -> None:
    """Show one figure with a remark that is neither gain nor loss."""
    st.metric(label, value, delta=remark, delta_color="off", delta_arrow="off", border=True, height="stretch")


def show_funnel(totals: Sequence[QuestTotals]) -> None:
    """Show how far quests of each type come, as bars and as a table."""
    funnels = quest_frames.build_funnels(totals)
    st.subheader("How far quests come", anchor=False)
    st.vega_lite_chart(
        quest_frames.build_funnel_chart(funnels),
        width="stretch",
        alt="Bars of how far quests of each type came; the table below has the figures",
    )
    share = partial(st.column_config.NumberColumn, format="%.0f%%")
    st.dataframe(
        quest_frames.build_funnel_frame(funnels),
        hide_index=True,
        height="content",
        row_height=ROW_PIXELS,
        alt="Share of the quests of each type that were started, came halfway and were completed",
        column_config={
            "type": "Type",
            "given": st.column_config.NumberColumn("Given", format="%,d"),
            "active": st.column_config.NumberColumn("Active", format="%,d"),
            "started": share("Started"),
            "halfway": share("Halfway"),
            "completed": share("Completed"),
        },
    )


def show_rewards(totals: Sequence[QuestTotals]) -> None:
    """Show what quests paid and can still pay."""
    st.subheader("Rewards", anchor=False)
    rewards = quest_frames.build_rewards(totals)
    if not rewards:
        st.caption("No quest has a reward.")
    for reward in rewards:
        with st.grid(2, min_column_width=CARD_PIXELS):
            show_figure(
                f"{name_key(reward.kind)} earned",
                quest_frames.format_amount(reward.earned, reward.kind),
                remark=f"{format_count(reward.completed)} completed",
            )
            show_figure(
                f"{name_key(reward.kind)} to earn",
                quest_frames.format_amount(reward.open, reward.kind),
                remark=f"{format_count(reward.active)} active",
            )


def show_expiring(service: EnhancedDatabaseService) -> None:
    """Show the active quests that end soon; the name is a link to the player's portfolio."""
    st.subheader("Expiring soon", anchor=False)
    quests = insight_data.list_expiring(service)
    if not quests:
        st.caption("No active quest ends within seven days.")
        return
    st.dataframe(
        quest_frames.build_expiring_frame(quests, datetime.now(UTC)),
        hide_index=True,
        height="content" if len(quests) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        alt=f"The next {len(quests)} quests to expire, with player and progress",
        column_config={
            "player": st.column_config.LinkColumn(
                "Player", display_text=r"player=(.+)$", help="Opens the player's portfolio"
            ),
            "title": "Quest",
            "progress": st.column_config.ProgressColumn(
                "Progress", format="%.0f%%", min_value=0, max_value=100
            ),
            "left": "Time left",
        },
    )


def show_slowest(service: EnhancedDatabaseService) -> None:
    """Show the quests that players get on with most slowly."""
    st.subheader("Slowest quests", anchor=False)
    paces = insight_data.list_slowest(service)
    if not paces:
        st.caption("No quest is active.")
        return
    st.dataframe(
        quest_frames.build_pace_frame(paces),
        hide_index=True,
        height="content",
        row_height=ROW_PIXELS,
        placeholder="never",
        alt=f"The {len(paces)} quests with least progress for each day that they are open",
        column_config={
            "title": st.column_config.TextColumn("Quest", width="medium"),
            "players": st.column_config.NumberColumn("Players", format="%,d"),
            "progress": st.column_config.ProgressColumn(
                "Progress", format="%.0f%%", min_value=0, max_value=100
            ),
            "age": st.column_config.NumberColumn("Days open", format="%,.1f"),
            "to_go": st.column_config.NumberColumn(
                "Days to go", format="%,.1f", help="At the pace so far; means of all players"
            ),
        },
    )


def show_player(service: EnhancedDatabaseService) -> None:
    """Show the search box, and the quests of the player in it."""
    st.subheader("One player's quests", anchor=False)
    name = st.text_input(
        "Find a player",
        key="player",
        placeholder="Type the first letters of a username or name",
        live=True,
        max_chars=NAME_LETTERS,
        bind="query-params",
    ).strip()
    if not name:
        st.caption("Type a username to see every quest that the player was given.")
        return
    user = data.find_player(service, name)
    if user is None:
        show_matches(service, name)
        return
    show_player_quests(service, user)


def show_player_quests(service: EnhancedDatabaseService, user: User) -> None:
    """Show every quest of a player, newest first, or that there is none."""
    quests = insight_data.list_player_quests(service, user)
    if not quests:
        st.info(f"{escape_markdown(user.username)} was given no quest yet.")
        return
    st.dataframe(
        quest_frames.build_player_frame(quests, datetime.now(UTC)),
        hide_index=True,
        height="content" if len(quests) <= ROWS_WITHOUT_SCROLLING else TABLE_PIXELS,
        row_height=ROW_PIXELS,
        alt=f"The newest {len(quests)} quests of {user.username}",
        column_config={
            "title": "Quest",
            "status": "Status",
            "progress": st.column_config.ProgressColumn(
                "Progress", format="%.0f%%", min_value=0, max_value=100
            ),
            "reward": "Reward",
            "given": st.column_config.DatetimeColumn("Given", format="YYYY-MM-DD HH:mm", timezone="UTC"),
            "left": "Time left",
        },
    )


def show_matches(service: EnhancedDatabaseService, name: str) -> None:
    """Offer the players whose name starts with what was typed, or say that there are none."""
    names = [user.username for user in data.search_players(service, name)]
    if not names:
        states.show_unknown_player(name)
        return
    with st.container(horizontal=True, gap="small"):
        for username in names:
            st.button(escape_markdown(username), key=f"choose-{username}", on_click=choose, args=(username,))


def choose(name: str) -> None:
    """Put a player into the search box."""
    parameters.keep_choices({"live": True})
    st.session_state["player"] = name


show_quests()
