"""The script of the Players page: how many players play, how many return, and which players are silent.

The filters are query parameters, so a link opens the same list. All sections refresh by themselves.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import PlayerDay, PlayerReport, SilentPlayer
from dashboard import filters, live, runtime, states
from dashboard.charts import enclose_data
from dashboard.elements import (
    CARD_PIXELS,
    SESSION_NOTE,
    build_count_column,
    build_day_column,
    is_phone,
    link_player,
    show_collapsible,
    show_metric,
    show_table,
)
from dashboard.formats import escape_markdown, format_change, format_count, format_day, format_quantity
from dashboard.pages.players import charts, data, download, tables
from dashboard.pages.players.data import ROWS_SHOWN, Silence, SilentPage, Today

REFRESH_SECONDS = 60
WINDOWS = {"7 days": 7, "30 days": 30}
SILENT_DAYS = ("1", "7", "14", "30", "60", "90")
MIN_SESSIONS_OFFERED = ("0", "5", "10", "20", "50")
ANY_WEEK = "Any week"
PAGES = "silent-pages"

SEEN_HELP = "Players who were active or played on one of these UTC days. The last day is today, so far."
QUEST_PIXELS = 310
"""Width of the column "Last quest". The longest quest title in the game and the quest's state fit into it."""
TODAY_HELP = "Players who were active since 00:00 UTC, or who played today's session."
PLAYED_HELP = "Players with a portfolio in at least one session of these days."
TRADED_HELP = "Players with at least one trade in today's session."
NEW_HELP = "Players who joined on these days: their account was created then."
RETURNING_HELP = "Players who played on one of these days after at least 7 days without playing."
LOST_HELP = f"Players who were seen before, but not in the last {data.LOST_DAYS} days."
NEWLY_LOST_HELP = (
    f"Players who reached {data.LOST_DAYS} days without activity on one of these days, and who have not come "
    "back. Below: the same number for as many days before, and for today so far. Do not compare the first "
    "two numbers: players who were lost earlier have had more time to come back."
)


def show_players() -> None:
    """Show the Players page for the filters in the address."""
    service = runtime.get_service()
    live.show_heading("Players")
    if not live.read("players-any", partial(data.has_players, service)):
        states.show_unseeded("no-players", "No players yet", "Nobody has signed up.")
        return
    live.show_live(partial(_show_now, service), seconds=REFRESH_SECONDS)
    st.header("Finished days", anchor=False)
    window = filters.select_segment(
        "Days before today", list(WINDOWS), default="7 days", key="window", noun="window"
    )
    live.show_live(partial(_show_figures, service, WINDOWS[window]), seconds=REFRESH_SECONDS)
    st.header("Silent players", anchor=False)
    with filters.collapse_filters():
        silence = _show_filters()
    live.show_live(partial(_show_silent, service, silence), seconds=REFRESH_SECONDS)
    st.caption(
        "Figures of today can be up to one minute old, figures of all players 15 minutes, and figures of "
        f"finished days one hour. The list of silent players is as of the last refresh. {SESSION_NOTE}"
    )


def _show_now(service: EnhancedDatabaseService) -> None:
    """Show the number of lost players (see `data.LOST_DAYS`) and, below it, the numbers of today.

    The numbers of today are read first, because this read is faster than the report on all players.
    """
    losses, today = st.container(), st.container()
    with today:
        live.show_section("players-today", load=partial(data.load_today, service), show=_show_today)
    with losses:
        live.show_section("players-report", load=service.get_player_report, show=_show_losses)


def _show_figures(service: EnhancedDatabaseService, days: int) -> None:
    live.show_section(
        "players-report",
        load=service.get_player_report,
        show=partial(_show_report, service, days=days),
    )


def _show_report(service: EnhancedDatabaseService, report: PlayerReport, *, days: int) -> None:
    """Show everything that comes from the report on all players.

    The chart and table of single days, in the middle of the page, are a section with its own read.
    """
    _show_window(report, days=days)
    _show_seen(report)
    live.show_section(
        "players-days", load=partial(service.list_player_days, days=data.DAYS_SHOWN), show=_show_days
    )
    _show_retention(report)
    _show_distributions(report)


def _show_losses(report: PlayerReport) -> None:
    st.markdown(tables.describe_losses(data.count_losses(report)))


def _show_today(today: Today) -> None:
    st.header("Today, so far", anchor=False)
    with st.grid(4, min_column_width=CARD_PIXELS):
        for label, players, text in (
            ("Seen", today.seen, TODAY_HELP),
            ("Played", today.counts.played, PLAYED_HELP),
            ("Traded", today.counts.traded, TRADED_HELP),
            ("New", today.counts.joined, NEW_HELP),
        ):
            show_metric(label, format_count(players), help=text)


def _show_seen(report: PlayerReport) -> None:
    st.header("All players", anchor=False)
    with st.grid(4, min_column_width=CARD_PIXELS):
        for days in (7, 30):
            show_metric(f"Seen in {days} days", format_count(data.count_seen(report, days)), help=SEEN_HELP)
        show_metric("Lost", format_count(data.count_lost(report)), help=LOST_HELP)
        show_metric("Players", format_count(report.players), help="All players who have signed up.")
    if report.never_seen:
        st.caption(f"Joined and never seen: {format_quantity(report.never_seen, 'player')}.")


def _show_window(report: PlayerReport, days: int) -> None:
    found = data.compare_windows(report, days)
    window, before = found.window, found.before
    today = data.find_window(report, days=1, end=0)
    st.caption(
        f"{format_day(window.first)} to {format_day(window.last)}, compared with {format_day(before.first)} "
        f"to {format_day(before.last)}. Returning today, so far: {format_count(today.returned)}."
    )
    rows = (
        ("Played", window.played, before.played, PLAYED_HELP),
        ("New", window.joined, before.joined, NEW_HELP),
        ("Returning", window.returned, before.returned, RETURNING_HELP),
    )
    with st.grid(4, min_column_width=CARD_PIXELS):
        for label, count, earlier, text in rows:
            is_change = count != earlier
            note = (
                f"{format_change(count - earlier)} from {format_count(earlier)}"
                if is_change
                else "as many before"
            )
            show_metric(label, format_count(count), note, is_change=is_change, help=text)
        lost_today = data.count_losses(report).today
        others = f"before: {format_count(found.lost_before)} · today: {format_count(lost_today)}"
        show_metric("Newly lost", format_count(found.lost), others, help=NEWLY_LOST_HELP)


def _show_days(days: Sequence[PlayerDay]) -> None:
    st.header(f"Players a day, last {len(days)} days", anchor=False)
    st.vega_lite_chart(
        charts.build_days_chart(days),
        width="stretch",
        alt=f"Players who played and traded, and new players, of {len(days)} days; see the table below",
    )
    st.caption("The lines of played and traded have one point per session. Hollow points: today, so far.")
    show_collapsible("Table of the days", partial(_show_days_table, days), key="days-table")


def _show_days_table(days: Sequence[PlayerDay]) -> None:
    show_table(
        tables.build_days_table(days),
        {
            "day": build_day_column("Day"),
            "state": st.column_config.TextColumn("State", help="So far: the session is open"),
            "played": build_count_column("Played", help="Players with a portfolio of the session"),
            "traded": build_count_column("Traded", help="Players with at least one trade in the session"),
            "joined": build_count_column("New", help="Players who joined on the day"),
        },
        alt=f"Players who played and traded, and new players, of {len(days)} days, newest first",
        on_phone=("day", "played", "traded", "joined"),
    )


def _show_retention(report: PlayerReport) -> None:
    st.header("Retention by week of joining", anchor=False)
    if not report.cohorts:
        st.caption(
            "Nobody has joined in the last 13 weeks. The list of silent players below can show the players "
            "of an earlier week."
        )
        return
    st.vega_lite_chart(
        charts.build_retention_chart(report, is_dark=st.context.theme.type == "dark", is_phone=is_phone()),
        width="stretch",
        alt="Share of each week's new players who played in each week since; see the table below",
    )
    st.caption(
        "A row is the players who joined in one week (Monday to Sunday, UTC); their number is in brackets. A "
        "cell is the share of these players who played at least one session in that week: in percent, or as "
        f"two numbers such as 2/3 if fewer than {tables.SMALL_COHORT} joined. Outlined: the current week, so "
        "far. Weeks without any session are empty."
    )
    if earlier := data.count_earlier(report):
        st.caption(
            f"Joined before these weeks, so in no row: {format_count(earlier)} of "
            f"{format_quantity(report.players, 'player')}. The list of silent players below can show the "
            "players of an earlier week."
        )
    show_collapsible("Table of retention", partial(_show_retention_table, report), key="retention-table")
    st.link_button(
        "Download CSV",
        download.RETENTION_PATH[1:],
        help="Retention: a row for each week of joining and each week since",
    )


def _show_retention_table(report: PlayerReport) -> None:
    table = tables.build_retention_table(report)
    show_table(
        table,
        {
            "week": build_day_column("Joined in the week of"),
            "players": build_count_column("Players"),
            **{
                name: st.column_config.TextColumn(name.capitalize(), alignment="right")
                for name in table.columns[2:]
            },
        },
        alt="Players who played, and their share: a row a week of joining, a column a week since",
        on_phone=("week", "players", "week 1"),
        placeholder="",
    )


def _show_distributions(report: PlayerReport) -> None:
    seen, streaks = st.columns(2, gap="medium")
    with seen:
        st.header("Days since last seen", anchor=False)
        _show_bars(tables.group_silence(report), title="Days since last seen")
    with streaks:
        st.header("Current streaks", anchor=False)
        if not report.streaks:
            st.caption("Nobody played the last finished session or today's.")
            return
        _show_bars(tables.group_streaks(report), title="Sessions in a row")
        st.caption(
            "Number of sessions that a player has played in a row up to now. Players who played neither "
            "today's session nor the last finished one have no streak. A day without a session does not end "
            "a streak. Only the last 62 days are counted."
        )


def _show_bars(buckets: Sequence[tables.Bucket], *, title: str) -> None:
    words = ", ".join(f"{bucket.label}: {format_count(bucket.players)}" for bucket in buckets)
    st.vega_lite_chart(
        enclose_data(charts.build_bars(buckets, title=title)), width="stretch", alt=f"{title}. {words}"
    )


def _show_filters() -> Silence:
    weeks: dict[str, date | None] = {
        ANY_WEEK: None,
        **{week.isoformat(): week for week in data.list_weeks(datetime.now(UTC).date())},
    }
    days = filters.select_segment(
        "Not seen for at least (days)",
        SILENT_DAYS,
        default="30",
        key="silent",
        noun="number of days",
        describe=lambda chosen: format_quantity(int(chosen), "day"),
        on_change=_go_to_first,
    )
    with st.grid(4, min_column_width=180, gap="small"):
        sessions = filters.select_option(
            "Sessions played, at least",
            MIN_SESSIONS_OFFERED,
            key="played",
            noun="number of sessions",
            describe=lambda chosen: f"{chosen} or more sessions",
            on_change=_go_to_first,
        )
        week = filters.select_option(
            "Joined in the week of", weeks, key="joined", noun="week", on_change=_go_to_first
        )
        order = filters.select_option("Order", data.ORDERS, key="sort", noun="order", on_change=_go_to_first)
        prefix = filters.show_prefix_search(key="name", on_change=_go_to_first)
    return Silence(int(days), int(sessions), weeks[week], prefix, data.ORDERS[order])


def _show_silent(service: EnhancedDatabaseService, silence: Silence) -> None:
    pages: list[SilentPlayer] = st.session_state.get(PAGES, [])
    after = pages[-1] if pages else None
    live.show_section(
        ("players-silent", silence, after),
        load=partial(data.load_silent, service, silence, after),
        show=partial(_show_page, silence=silence, skipped=len(pages) * ROWS_SHOWN),
    )


def _show_page(page: SilentPage, *, silence: Silence, skipped: int) -> None:
    if not page.players:
        _show_nobody(silence)
        return
    text = st.column_config.TextColumn
    first, last = skipped + 1, skipped + len(page.players)
    total = (
        format_quantity(page.total, "player")
        if page.total < data.PLAYERS_COUNTED
        else f"{format_count(page.total)}+ players"
    )
    st.caption(
        f"{format_count(first)} to {format_count(last)} of {total} not seen for at least "
        f"{format_quantity(silence.days, 'day')}. Rank and return: of the last session played."
    )
    show_table(
        tables.build_silent_table(page.players),
        {
            "player": link_player(),
            "days": build_count_column("Days", help="Days since the player was seen last"),
            "rank": text("Rank", alignment="right", help="By daily return, in the last session"),
            "return": text("Daily return", alignment="right", help="In the last session"),
            "quest": text("Last quest", width=QUEST_PIXELS, help="The newest one and its state"),
            "session": build_day_column("Last session"),
            "seen": build_day_column(
                "Last seen", help="The last day on which the player was active or played"
            ),
            "sessions": build_count_column("Sessions", help="All sessions that the player played"),
            "joined": build_day_column("Joined"),
        },
        alt=f"Players who were not seen for {format_quantity(silence.days, 'day')}, with what they did last",
        visible_rows=ROWS_SHOWN // 2,
        on_phone=("player", "days", "rank", "return"),
        on_tablet=("player", "days", "rank", "return", "quest"),
    )
    with st.container(horizontal=True, gap="small"):
        st.button("Previous", key="silent-previous", disabled=not skipped, on_click=_go_back)
        st.button(
            "Next",
            key="silent-next",
            disabled=len(page.players) < ROWS_SHOWN,
            on_click=_go_on,
            args=(page.players[-1],),
        )
        st.link_button(
            "Download CSV",
            download.build_silent_link(silence),
            help="All players of this list, not only this page",
        )


def _show_nobody(silence: Silence) -> None:
    is_filtered = silence != Silence(days=silence.days, order=silence.order)
    where = f" starting with “{escape_markdown(silence.prefix)}”" if silence.prefix else ""
    states.show_empty(
        "nobody-silent",
        f"No player{where} is silent for {format_quantity(silence.days, 'day')}",
        "Choose fewer days, or remove filters above."
        if is_filtered
        else "Every player who was ever seen was seen in this time.",
    )


def _go_to_first() -> None:
    st.session_state.pop(PAGES, None)


def _go_on(last: SilentPlayer) -> None:
    st.session_state[PAGES] = [*st.session_state.get(PAGES, []), last]


def _go_back() -> None:
    st.session_state[PAGES] = st.session_state.get(PAGES, [])[:-1]


show_players()
