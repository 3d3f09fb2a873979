"""The script of the Quests page: results and rewards of ended quests, returning players, and stuck quests.

The filters and the search box are query parameters, so a link opens the same page. The reports refresh by
themselves.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import (
    CompletionTimes,
    PlayerQuest,
    Quest,
    QuestOutcome,
    QuestReturn,
    QuestTotals,
    StuckQuests,
    User,
)
from core.service.quest_reports import MAX_STUCK
from dashboard import filters, live, runtime, states
from dashboard.data import find_player
from dashboard.elements import CARD_PIXELS, MINUTES, PROGRESS, link_player, show_metric, show_table
from dashboard.formats import escape_markdown, format_count, format_key, format_quantity, format_share
from dashboard.pages.quests import charts, download, tables

REFRESH_SECONDS = 60
EXPIRING_SHOWN = 25
EXPIRING_WITHIN = timedelta(hours=24)
STUCK_SHOWN = 100
TITLES_SHOWN = 20
TITLE_PIXELS, REASON_PIXELS, PROGRESS_PIXELS = 250, 190, 110
"""Widths of columns: the longest title in the game and the longest reason why a quest is stuck fit.

On a phone, one more column fits beside the title.
"""
COMPARED_PLAYERS = 2_500
"""Maximum number of players whose returns are compared: a comparison of more would take seconds.

In a larger game, a sample of this many players is compared. The shares of the sample differ by one or two
percentage points from the shares of all players.
"""
PLAYER_QUESTS_SHOWN = 100

WINDOWS: dict[str, int | None] = {"7 days": 7, "4 weeks": 28, "12 weeks": 84, "1 year": 365, "All time": None}
"""Length of each window in days, including today; None for all time."""
DEFAULT_WINDOW = "12 weeks"
ALL_TYPES = "All types"
FILTERS = {"player": "", "ended": DEFAULT_WINDOW, "quest": ALL_TYPES}
"""The default of each filter by its key."""

DEFINITIONS = (
    "A quest has **ended** when it is completed, expired or past its deadline; any other quest is "
    "**running**. A completed quest ended at its completion. Any other ended in the last moment before its "
    "deadline, so a quest with the deadline Monday 00:00 belongs to the week before. Windows are UTC days: "
    "7 days are today and the six days before. Weeks begin on Monday. Shares count ended quests with a "
    "deadline: running quests do not lower a share, and quests without a deadline, which end only by "
    "completion, do not raise it."
)

STUCK_RULE = (
    "A quest can be stuck once half of its time is over (without a deadline: after 7 days). It is behind if "
    "its progress is less than half of the share of its time that is over. Quests that end within 24 hours "
    "are listed under Expiring soon."
)

AGE = "Up to three minutes old."


def show_quests() -> None:
    """Show the Quests page for the filters in the address."""
    service = runtime.get_service()
    live.show_heading("Quests")
    with live.loading():
        totals = live.read("quests-totals", service.get_quest_totals)
    if not totals:
        states.show_unseeded("no-quests", "No quests yet", "No player has a quest.")
        return
    since, quest_type = _show_filters(totals)
    live.show_live(partial(_show_reports, service, since, quest_type), seconds=REFRESH_SECONDS)
    _show_player(service)
    st.caption(
        "Reports can be up to three minutes old, the comparison of returns up to 15 minutes. "
        "All times are in UTC."
    )


def _show_filters(totals: Sequence[QuestTotals]) -> tuple[date | None, str | None]:
    """Show the filters. Return the first day of the window (None: all time) and the type (None: all)."""
    keys = {format_key(row.type): row.type for row in totals}
    if len(keys) < len({row.type for row in totals}):
        # two quest types are the same in words, so the filter shows their database keys
        keys = {row.type: row.type for row in totals}
    with filters.collapse_filters(), st.container(horizontal=True):
        window = filters.select_segment(
            "Ended within", list(WINDOWS), default=DEFAULT_WINDOW, key="ended", noun="window"
        )
        chosen = filters.select_option(
            "Quest type", [ALL_TYPES, *sorted(keys)], key="quest", noun="quest type"
        )
    days = WINDOWS[window]
    today = datetime.now(UTC).date()
    return None if days is None else today - timedelta(days=days - 1), keys.get(chosen)


def _show_reports(service: EnhancedDatabaseService, since: date | None, quest_type: str | None) -> None:
    def load_outcomes() -> tuple[Sequence[QuestOutcome], Sequence[QuestTotals], int]:
        return (
            tables.select_type(service.list_quest_outcomes(since=since), quest_type),
            tables.select_type(service.get_quest_totals(), quest_type),
            service.count_undated_quests(),
        )

    def show_outcomes(found: tuple[Sequence[QuestOutcome], Sequence[QuestTotals], int]) -> None:
        outcomes, totals, undated = found
        if quest_type is None:
            st.markdown(tables.describe_rates(tables.list_progress(outcomes)))
        _show_outcomes(outcomes, totals, undated, since=since)
        with weeks:
            _show_weeks(outcomes, totals, since=since)

    # `show_outcomes` fills the first and the last part of the page; the containers keep the order on the page
    first, middle, weeks = st.container(), st.container(), st.container()
    with first:
        live.show_section(("quests-outcomes", since, quest_type), load=load_outcomes, show=show_outcomes)
    with middle:
        _show_players(service, since, quest_type)


def _show_players(service: EnhancedDatabaseService, since: date | None, quest_type: str | None) -> None:
    """Show returning players, the time to complete, and the quests that are stuck or expire soon."""

    def load_returns() -> tuple[Sequence[QuestReturn], Sequence[QuestTotals]]:
        return (
            tables.select_type(service.get_quest_returns(since=since, players=COMPARED_PLAYERS), quest_type),
            tables.select_type(service.get_quest_totals(), quest_type),
        )

    returns, times = st.columns(2, gap="medium")
    with returns:
        st.header("Do players with quests return?", anchor=False)
        live.show_section(
            ("quests-returns", since, quest_type),
            load=load_returns,
            show=lambda found: _show_returns(*found),
        )
    with times:
        st.header("Time to complete", anchor=False)
        live.show_section(
            ("quests-times", since, quest_type),
            load=lambda: service.get_completion_times(since=since, type=quest_type, limit=TITLES_SHOWN),
            show=_show_times,
        )
    st.header("Stuck players", anchor=False)
    live.show_section(
        ("quests-stuck", quest_type),
        load=lambda: service.list_stuck_quests(type=quest_type, limit=STUCK_SHOWN),
        show=partial(_show_stuck, quest_type),
    )
    st.header("Expiring soon", anchor=False)
    live.show_section(
        ("quests-expiring", quest_type),
        load=lambda: service.list_expiring_quests(
            limit=EXPIRING_SHOWN, within=EXPIRING_WITHIN, type=quest_type
        ),
        show=_show_expiring,
    )


def _show_outcomes(
    outcomes: Sequence[QuestOutcome], totals: Sequence[QuestTotals], undated: int, *, since: date | None
) -> None:
    _show_summary(outcomes, totals)
    if endless := tables.describe_endless(outcomes, totals, since=since):
        st.caption(endless)
    if undated:
        st.caption(
            f"{format_quantity(undated, 'quest')} of all types completed at an unknown time, before times "
            "were stored. They count only under All time, and not in the time to complete."
        )
    progress = tables.list_progress(outcomes)
    st.header("Quest progress", anchor=False, help=DEFINITIONS)
    if progress:
        st.vega_lite_chart(
            charts.build_progress_chart(progress, is_dark=st.context.theme.type == "dark"),
            width="stretch",
            alt="How far the ended quests of each type came, as bars; the table below has the values",
        )
    else:
        st.caption("No quest with a deadline ended in this window.")
    table = tables.build_progress_table(progress, totals)
    number = partial(st.column_config.TextColumn, alignment="right")
    if len(table):
        show_table(
            table,
            {
                "type": "Type",
                "ended": number("Ended"),
                "completed": number("Quests completed", help="Number of ended quests that were completed"),
                **{
                    f"step {place}": number(step, help="Of the ended quests; each is in one of these columns")
                    for place, step in enumerate(tables.STEPS)
                },
                "running": number("Running now", help="Not part of the shares"),
            },
            alt="Ended quests of each type with a deadline, by how far they came",
            on_phone=("type", "ended", "step 0"),
            on_tablet=("type", "ended", *(f"step {place}" for place in range(len(tables.STEPS)))),
        )
    if types := tables.describe_types(totals):
        st.caption(types)


def _show_summary(outcomes: Sequence[QuestOutcome], totals: Sequence[QuestTotals]) -> None:
    done, running = tables.add_progress(outcomes), tables.sum_running(totals)
    limited = tables.add_progress(tables.select_limited(outcomes))
    with st.grid(4, min_column_width=CARD_PIXELS):
        show_metric(
            "Ended quests",
            format_count(done.ended),
            f"{format_count(done.completed)} completed",
            help=f"Quests that were completed or reached their deadline in the window. {AGE}",
        )
        show_metric(
            "Completion rate",
            format_share(limited.completed, limited.ended, places=1),
            f"of {format_count(limited.ended)} with a deadline",
            help="Completed quests in percent of the quests that ended in the window. Only types with a "
            f"deadline count: quests of other types end only by completion. {AGE}",
        )
        show_metric(
            "Running now",
            format_count(running.quests),
            "in any window",
            help=f"Quests that have not ended; the window has no effect. {AGE}",
        )
        show_metric(
            "Expiring",
            format_count(running.expiring),
            "within 24 hours",
            help=f"Running quests whose time is over within 24 hours; the window has no effect. {AGE}",
        )


def _show_weeks(
    outcomes: Sequence[QuestOutcome], totals: Sequence[QuestTotals], *, since: date | None
) -> None:
    today = datetime.now(UTC).date()
    st.header("Completed by week", anchor=False, help=DEFINITIONS)
    if tables.select_limited(outcomes):
        st.caption(
            "Completed quests in percent of those that ended in the week: a completed quest ended at its "
            "completion, any other at its deadline."
        )
        table = tables.build_weeks_table(outcomes, since=since, today=today)
        show_table(
            table,
            _label_columns(table, help_text="Completed, of the quests that ended in the week"),
            alt="Share of the quests that ended in each week that were completed, by type",
            on_phone=[str(name) for name in table.columns[:2]],
        )
    else:
        st.caption("No quest with a deadline ended in this window.")
    st.header("Rewards given", anchor=False)
    rewards = tables.list_rewards(outcomes, totals)
    if not rewards:
        st.caption("No quest has a reward.")
        return
    with st.grid(4, min_column_width=CARD_PIXELS):
        for kind, given, still_open in rewards:
            show_metric(
                escape_markdown(kind),
                given,
                f"{still_open} in running quests",
                help=f"Sum of the rewards of the quests that were completed in the window. {AGE}",
            )
    table = tables.build_rewards_table(outcomes, since=since, today=today)
    if len(table):
        st.caption("Rewards by the week in which their quest was completed.")
        show_table(
            table,
            _label_columns(table, help_text="Sum of the rewards of the quests completed in the week"),
            alt="Rewards of the quests completed in each week, by kind",
            on_phone=[str(name) for name in table.columns[:3]],
            width="content",
        )


def _label_columns(table: object, *, help_text: str) -> dict[str, object]:
    """Return the columns of a table by week: the week, then one for each quest type or kind of reward."""
    _, *others = list(table)  # type: ignore[call-overload]  # column names of a data frame
    labels = {name: format_key(name.partition(" ")[2]) for name in others}
    return {
        "week": st.column_config.TextColumn("Week of", help="Its Monday, UTC", pinned=True),
        **{
            name: st.column_config.TextColumn(label, help=help_text, alignment="right")
            for name, label in labels.items()
        },
    }


def _show_times(times: CompletionTimes) -> None:
    if times.median is None:
        st.caption("No quest with a known time of completion was completed in this window.")
        return
    st.caption(
        f"Median of {format_count(times.completed)} completed quests: "
        f"**{tables.describe_duration(times.median)}** from the start to the completion. Quests that were "
        f"not completed are left out. The slowest first, at most {TITLES_SHOWN} titles."
    )
    show_table(
        tables.build_times_table(times.titles),
        {
            "median": st.column_config.TextColumn(
                "Median", help="Median time from the start to the completion", alignment="right"
            ),
            "title": st.column_config.TextColumn("Quest", width=TITLE_PIXELS),
            "completed": st.column_config.TextColumn(
                "Quests", help="Quests completed in the window", alignment="right"
            ),
            "type": "Type",
        },
        alt="Median time to complete the quests of each title, slowest first",
        on_phone=("median", "title"),
    )


def _show_returns(returns: Sequence[QuestReturn], totals: Sequence[QuestTotals]) -> None:
    if not returns:
        st.caption(
            "No session of this window is at least 8 days old and was played with a quest. "
            "Choose a longer window."
        )
        return
    comparisons = tables.compare_returns(returns)
    st.markdown(tables.describe_returns(comparisons))
    show_table(
        tables.build_returns_table(comparisons),
        {
            "type": "Type",
            "verdict": st.column_config.TextColumn(
                "They return",
                help="No visible difference: below one percentage point, or possibly by chance (5 % level)",
            ),
            "difference": st.column_config.TextColumn(
                "Difference", help="Percentage points", alignment="right"
            ),
            "with": st.column_config.TextColumn("Returned with it", alignment="right"),
            "without": st.column_config.TextColumn("Returned without it", alignment="right"),
        },
        alt="Share of sessions after which players with and without a quest of each type played again",
        on_phone=("type", "verdict"),
    )
    st.caption(
        "Share of sessions after which the player played again within 7 days. With it: sessions of players "
        "who had a running quest of the type. Without it: all other sessions of the same days. Only "
        "sessions that are at least 8 days old count. A type is compared if there are at least "
        f"{tables.MIN_SESSIONS} sessions with it and {tables.MIN_SESSIONS} without it. In a large "
        f"game, a sample of {format_count(COMPARED_PLAYERS)} players is compared. A difference does not show "
        "that the quest is the cause: players who get quests may differ in other ways too."
        f"{tables.describe_not_compared(returns, totals)}"
    )


def _show_stuck(quest_type: str | None, stuck: StuckQuests) -> None:
    if not stuck.quests:
        st.caption(f"No running quest is stuck. {STUCK_RULE}")
        return
    st.markdown(tables.describe_stuck(stuck))
    st.caption(STUCK_RULE)
    show_table(
        tables.build_stuck_table(stuck.first, datetime.now(UTC)),
        {
            "player": link_player(),
            "title": "Quest",
            "reason": st.column_config.TextColumn("Why", width=REASON_PIXELS),
            "progress": st.column_config.ProgressColumn("Progress", **PROGRESS),
            "running": "Running for",
            "left": "Time left",
            "seen": st.column_config.TextColumn("Last seen", help="UTC date of the last activity"),
        },
        alt=f"{format_quantity(len(stuck.first), 'stuck quest')}, with player and reason",
        on_phone=("player", "reason"),
        on_tablet=("player", "title", "reason", "progress", "running"),
    )
    if stuck.quests > len(stuck.first):
        st.caption(
            f"The first {len(stuck.first)}. First come players who were seen in the last 7 days; within each "
            "group, quests that have been running longest."
        )
    st.link_button(
        "Download CSV",
        download.build_link(quest_type),
        help=f"Up to {format_count(MAX_STUCK)} stuck quests in this order, with times and ids",
    )


def _show_expiring(quests: Sequence[PlayerQuest]) -> None:
    if not quests:
        st.caption("No running quest ends within 24 hours.")
        return
    show_table(
        tables.build_expiring_table(quests, datetime.now(UTC)),
        {
            "player": link_player(),
            "title": "Quest",
            "progress": st.column_config.ProgressColumn("Progress", width=PROGRESS_PIXELS, **PROGRESS),
            "left": "Time left",
        },
        alt=f"{format_quantity(len(quests), 'quest')} that expire next, with player and progress",
        on_phone=("player", "progress", "left"),
    )


def _show_player(service: EnhancedDatabaseService) -> None:
    st.header("Quests of one player", anchor=False)
    name = filters.show_player_search(
        "Find a player", key="player", placeholder="First letters of a username or name"
    )
    if not name:
        st.caption("Type a username to see all quests of a player.")
        return
    live.show_section(
        ("player-quests", name),
        load=partial(_load_player, service, name),
        show=partial(_show_player_quests, service, name),
    )


def _load_player(service: EnhancedDatabaseService, name: str) -> tuple[User, Sequence[Quest]] | None:
    """Return the player with this username and the player's newest quests, or None without such a player."""
    user = find_player(service, name)
    if user is None:
        return None
    return user, service.get_user_quests(user.id, limit=PLAYER_QUESTS_SHOWN)


def _show_player_quests(
    service: EnhancedDatabaseService, name: str, found: tuple[User, Sequence[Quest]] | None
) -> None:
    if found is None:
        filters.show_matches(service, name, key="player", filters=FILTERS)
        return
    user, quests = found
    if not quests:
        st.info(f"{escape_markdown(user.username)} has no quests yet.")
        return
    show_table(
        tables.build_player_table(quests, datetime.now(UTC)),
        {
            "title": st.column_config.TextColumn("Quest", width=TITLE_PIXELS),
            "status": "Status",
            "progress": st.column_config.ProgressColumn("Progress", **PROGRESS),
            "reward": "Reward",
            "given": st.column_config.DatetimeColumn("Given", **MINUTES),
            "completed": st.column_config.DatetimeColumn("Completed", **MINUTES),
            "left": "Time left",
        },
        alt=f"{format_quantity(len(quests), 'quest')} of {user.username}, the newest first",
        on_phone=("title", "status"),
        on_tablet=("title", "status", "progress", "left"),
        placeholder="",
    )


show_quests()
