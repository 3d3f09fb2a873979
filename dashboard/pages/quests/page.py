"""Quests: progress, rewards, and the quests that expire soon or advance slowly.

Run by Streamlit as a script for every view. The search box is the `player` query parameter, so a player's
quests are a link. The sums refresh alone.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import QuestTotals
from dashboard import filters, live, runtime, states
from dashboard.data import find_player
from dashboard.elements import CARD_PIXELS, MINUTES, PROGRESS, show_metric, show_table
from dashboard.formats import escape_markdown, format_amount, format_count, format_key
from dashboard.pages.quests import tables

REFRESH_SECONDS = 60
EXPIRING_SHOWN = 25
EXPIRING_WITHIN = timedelta(days=7)
SLOWEST_SHOWN = 10
PLAYER_QUESTS_SHOWN = 100
FILTERS = {"player": "", "live": True}
"""The key of each filter and its default."""


def show_quests() -> None:
    """Show the page for the values in the address."""
    service = runtime.get_service()
    live.show_heading("Quests")
    with live.loading():
        totals = service.get_quest_totals()
    if not totals:
        states.show_empty(
            "no-quests",
            "No quests yet",
            "No player has a quest. Load the shipped price history as game sessions with quests:",
            command="make seed",
            note="Without make: `echo-markets seed`. Then reload this page.",
        )
        return
    live.show_live(partial(_show_sums, service), seconds=REFRESH_SECONDS)
    _show_player(service)
    st.caption("Sums can be up to three minutes old. All times are in UTC.")


def _show_sums(service: EnhancedDatabaseService) -> None:
    totals = service.get_quest_totals()
    _show_summary(totals)
    progress, rewards = st.columns(2, gap="medium")
    with progress:
        _show_progress(totals)
    with rewards:
        _show_rewards(totals)
        _show_slowest(service)
    _show_expiring(service)


def _show_summary(totals: Sequence[QuestTotals]) -> None:
    summary = tables.summarize_quests(totals)
    percent = summary.completed_percent
    rate = "-" if percent is None else f"{percent:.1f}%"
    with st.grid(4, min_column_width=CARD_PIXELS):
        show_metric("Active quests", format_count(summary.active), f"of {format_count(summary.given)}")
        expired = f"{format_count(summary.expired)} expired"
        show_metric("Completed", format_count(summary.completed), expired)
        ended = format_count(summary.completed + summary.expired)
        show_metric("Completion rate", rate, f"of {ended} ended")
        show_metric("Expiring", format_count(summary.expiring), "within 24 hours")


def _show_progress(totals: Sequence[QuestTotals]) -> None:
    progress = tables.list_progress(totals)
    st.subheader("Quest progress", anchor=False)
    st.vega_lite_chart(
        tables.build_progress_chart(progress),
        width="stretch",
        alt="Progress of the quests of each type as bars; the table below has the values",
    )
    number = st.column_config.NumberColumn
    percent = partial(number, format="%.0f%%")
    show_table(
        tables.build_progress_table(progress),
        {
            "type": "Type",
            "given": number("Given", format="%,d"),
            "active": number("Active", format="%,d"),
            "started": percent("Started"),
            "halfway": percent("Halfway"),
            "completed": percent("Completed"),
        },
        alt="Share of the quests of each type that were started, half done and completed",
        visible_rows=len(progress),
    )


def _show_rewards(totals: Sequence[QuestTotals]) -> None:
    st.subheader("Rewards", anchor=False)
    rewards = tables.list_rewards(totals)
    if not rewards:
        st.caption("No quest has a reward.")
    for reward in rewards:
        kind = format_key(reward.kind)
        with st.grid(2, min_column_width=CARD_PIXELS):
            earned, to_earn = (format_amount(part, reward.kind) for part in (reward.earned, reward.open))
            show_metric(f"{kind} earned", earned, f"{format_count(reward.completed)} completed")
            show_metric(f"{kind} to earn", to_earn, f"{format_count(reward.active)} active")


def _show_slowest(service: EnhancedDatabaseService) -> None:
    st.subheader("Slowest quests", anchor=False)
    paces = service.list_slowest_quests(limit=SLOWEST_SHOWN)
    if not paces:
        st.caption("No quest is active.")
        return
    number = st.column_config.NumberColumn
    show_table(
        tables.build_pace_table(paces),
        {
            "title": st.column_config.TextColumn("Quest", width="medium"),
            "players": number("Players", format="%,d"),
            "progress": st.column_config.ProgressColumn("Progress", **PROGRESS),
            "age": number("Days open", format="%,.1f"),
            "to_go": number("Days to go", format="%,.1f", help="At the pace so far; means of all players"),
        },
        alt=f"The {len(paces)} active quests with the least progress per day",
        placeholder="never",
    )


def _show_expiring(service: EnhancedDatabaseService) -> None:
    st.subheader("Expiring soon", anchor=False)
    quests = service.list_expiring_quests(limit=EXPIRING_SHOWN, within=EXPIRING_WITHIN)
    if not quests:
        st.caption(f"No active quest expires within {EXPIRING_WITHIN.days} days.")
        return
    show_table(
        tables.build_expiring_table(quests, datetime.now(UTC)),
        {
            "player": st.column_config.LinkColumn(
                "Player", display_text=r"player=(.+)$", help="Opens the player's portfolio"
            ),
            "title": "Quest",
            "progress": st.column_config.ProgressColumn("Progress", **PROGRESS),
            "left": "Time left",
        },
        alt=f"The next {len(quests)} quests to expire, with player and progress",
    )


def _show_player(service: EnhancedDatabaseService) -> None:
    st.subheader("Quests of one player", anchor=False)
    name = filters.enter_player(
        "Find a player", key="player", placeholder="First letters of a username or name"
    )
    if not name:
        st.caption("Type a username to see all quests of a player.")
        return
    user = find_player(service, name)
    if user is None:
        filters.show_matches(service, name, key="player", filters=FILTERS)
        return
    quests = service.get_user_quests(user.id, limit=PLAYER_QUESTS_SHOWN)
    if not quests:
        st.info(f"{escape_markdown(user.username)} has no quests yet.")
        return
    show_table(
        tables.build_player_table(quests, datetime.now(UTC)),
        {
            "title": "Quest",
            "status": "Status",
            "progress": st.column_config.ProgressColumn("Progress", **PROGRESS),
            "reward": "Reward",
            "given": st.column_config.DatetimeColumn("Given", **MINUTES),
            "left": "Time left",
        },
        alt=f"The newest {len(quests)} quests of {user.username}",
    )


show_quests()
