"""Portfolios: the sessions, ranks and quests of one player.

Run by Streamlit as a script for every view. The search box is the `player` query parameter, so a player's
page is a link. Only reads: looking at a player never creates a portfolio.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import streamlit as st

from core import EnhancedDatabaseService
from core.records import Portfolio, Quest, User
from dashboard import filters, live, runtime, states
from dashboard.data import find_player, list_categories
from dashboard.elements import CARD_PIXELS, show_metric, show_table
from dashboard.formats import (
    KNOWN_CATEGORIES,
    escape_markdown,
    format_count,
    format_day,
    format_money,
    format_percent,
    format_quantity,
    format_rank,
    format_score,
    format_signed_money,
    is_zero,
)
from dashboard.pages.portfolios import charts, data, tables
from dashboard.pages.portfolios.data import Player
from dashboard.pages.portfolios.tables import STARTING_CASH, Curve

WINDOWS = (30, 90, 250, 1000)
DEFAULT_WINDOW = 90
FILTERS = {
    "player": "",
    "rival": "",
    "sessions": DEFAULT_WINDOW,
    "board": KNOWN_CATEGORIES[0].name,
    "live": True,
}
"""The key of each filter and its default."""

REFRESH_SECONDS = 30


def show_portfolios() -> None:
    """Show the page for the values in the address."""
    service = runtime.get_service()
    live.show_heading("Portfolios")
    name, rival_name, window = _show_filters()
    if not name:
        _show_suggestions(service)
        return
    with live.loading():
        user = find_player(service, name)
    if user is None:
        filters.show_matches(service, name, key="player", filters=FILTERS)
        return
    rival = _find_rival(service, rival_name, user) if rival_name else None
    live.show_live(partial(_show_players, service, user, rival, window), seconds=REFRESH_SECONDS)
    st.caption("The best player can be up to two minutes old. All times and session dates are in UTC.")


def _show_filters() -> tuple[str, str, int]:
    first, second, third = st.columns([3, 3, 2])
    with first:
        name = filters.enter_player(
            "Find a player", key="player", placeholder="First letters of a username or name"
        )
    with second:
        rival = filters.enter_player("Compare with", key="rival", placeholder="Another player")
    with third:
        window = filters.select_segment(
            "Sessions shown", WINDOWS, default=DEFAULT_WINDOW, key="sessions", noun="number of sessions"
        )
    return name, rival, window


def _show_suggestions(service: EnhancedDatabaseService) -> None:
    names = data.suggest_players(service)
    if names:
        st.subheader("Best players of the newest session", anchor=False)
        filters.show_player_buttons(names, key="player", filters=FILTERS)
    elif service.list_session_dates(limit=1):
        st.caption("Type a username above to see the player's sessions, ranks and quests.")
    else:
        states.show_no_sessions()


def _find_rival(service: EnhancedDatabaseService, name: str, player: User) -> User | None:
    """Return the player to compare with; otherwise offer matches or say why there is none."""
    rival = find_player(service, name)
    if rival is None:
        filters.show_matches(service, name, key="rival", filters=FILTERS)
    elif rival.id == player.id:
        st.info("Choose another player to compare with: both are the same.")
        return None
    return rival


def _show_players(service: EnhancedDatabaseService, user: User, rival: User | None, window: int) -> None:
    player = data.find_history(service, user, limit=window)
    if player is None:
        states.show_not_played(user.username)
        return
    other = data.find_history(service, rival, limit=window) if rival else None
    if rival and other is None:
        states.show_not_played(rival.username)
    _show_player(service, player, other)


def _show_player(service: EnhancedDatabaseService, player: Player, rival: Player | None) -> None:
    user, history = player.user, player.history
    st.header(escape_markdown(user.name or user.username), anchor=False)
    st.caption(
        f"@{escape_markdown(user.username)} · newest session {format_day(history[0].session_date)} · "
        f"playing since {format_day(user.created_at.astimezone(UTC).date())}"
    )
    _show_newest_session(history[0])
    if rival is not None:
        _show_side_by_side((player, rival))
    ranks, record = st.columns(2, gap="medium")
    with ranks:
        _show_ranks(data.list_ranks(service, user, history[0].session_date))
    with record:
        _show_record(history)
    left, right = st.columns([5, 3], gap="medium")
    with left:
        _show_equity(service, player, rival)
        _show_changes(history)
    with right:
        _show_quests(data.list_active_quests(service, user))
        _show_rank_history(service, player)
        _show_holdings(history)
    _show_sessions(history)
    _show_profile(user)


def _show_newest_session(portfolio: Portfolio) -> None:
    invested = tables.measure_invested(portfolio)
    percent = portfolio.day_change_percent

    def show_part(label: str, amount: Decimal, percent: Decimal) -> None:
        show_metric(label, format_money(amount), f"{percent:.0f}%", delta_description="of the value")

    with st.grid(4, min_column_width=CARD_PIXELS):
        total = format_money(portfolio.total_value)
        show_metric("Total value", total, f"from {format_money(portfolio.starting_cash)}")
        change = format_signed_money(portfolio.day_change)
        show_metric("Day change", change, format_percent(percent), is_change=not is_zero(percent))
        show_part("Cash", portfolio.current_cash, 100 - invested.percent)
        show_part("Invested", invested.amount, invested.percent)


def _show_ranks(ranks: Iterable[data.PlayerRank]) -> None:
    st.subheader("Ranks in the newest session", anchor=False)
    with st.grid(3, min_column_width=CARD_PIXELS):
        for rank in ranks:
            entry, category = rank.entry, rank.category
            if entry:
                show_metric(category.name, format_rank(entry.rank), format_score(entry.score, category.unit))
            else:
                show_metric(category.name, "Not ranked", "no score this session")


def _show_record(history: Sequence[Portfolio]) -> None:
    record = tables.summarize_history(history)
    st.subheader(f"Last {format_quantity(record.sessions, 'session')}", anchor=False)
    with st.grid(3, min_column_width=CARD_PIXELS):
        show_metric("Sessions won", format_count(record.won), f"{record.won / record.sessions:.0%}")
        show_metric("Average change", format_signed_money(record.average_change))
        show_metric(
            "Best and worst",
            format_signed_money(record.best_change),
            format_signed_money(record.worst_change),
            is_change=not is_zero(record.worst_change),
        )


def _show_quests(quests: Sequence[Quest]) -> None:
    st.subheader("Active quests", anchor=False)
    if not quests:
        st.caption("No active quest. Completed and expired quests are on the Quests page.")
    now = datetime.now(UTC)
    for quest in quests:
        card = tables.build_quest_card(quest, now)
        with st.container(border=True, gap="xsmall"):
            st.markdown(f"**{escape_markdown(card.title)}**")
            if card.description:
                st.caption(escape_markdown(card.description))
            st.progress(card.fraction, text=card.progress)
            facts = [f"Reward: {card.reward}" if card.reward else "", card.time_left]
            st.caption(" · ".join(escape_markdown(fact) for fact in facts if fact))


def _show_equity(service: EnhancedDatabaseService, player: Player, rival: Player | None) -> None:
    curves, styles = _list_curves(service, player, rival)
    own = curves[0]
    gains = (f"{curve.name} {format_signed_money(_measure_gain(curve))}" for curve in curves)
    st.subheader("Equity", anchor=False)
    st.vega_lite_chart(
        charts.build_equity_chart(tuple(curves), tuple(styles)),
        width="stretch",
        alt=f"Equity over {format_quantity(len(own.days), 'session')}: {', '.join(gains)}",
    )
    st.caption(
        f"\\${STARTING_CASH:,} plus all gains since the first session shown. Market average: equal parts "
        "of all symbols, bought each morning and sold each evening. Best: the leader of the newest session."
    )
    deepest = tables.find_deepest(own)
    st.subheader("Drawdown", anchor=False)
    st.vega_lite_chart(
        charts.build_drawdown_chart(own),
        width="stretch",
        alt=f"Distance of the equity from its peak; deepest {format_percent(deepest.percent)}",
    )
    if deepest.percent:
        st.caption(f"Deepest: {format_percent(deepest.percent)} on {format_day(deepest.day)}.")
    else:
        st.caption("The equity was never below its peak.")


def _list_curves(
    service: EnhancedDatabaseService, player: Player, rival: Player | None
) -> tuple[list[Curve], list[int]]:
    """Return the curves, the player's first, and the place of each in `charts.LINES`."""
    days = [row.session_date for row in reversed(player.history)]
    market = tables.build_market_curve(data.list_market_returns(service, player.history), days)
    best = data.find_best(service, player)
    if best and rival and best.user.id == rival.user.id:
        best = None
    candidates = [
        (0, _build_curve(player, player)),
        (1, market),
        (2, _build_curve(best, player, label="Best: ") if best else None),
        (3, _build_curve(rival, player) if rival else None),
    ]
    shown = [(style, curve) for style, curve in candidates if curve is not None and curve.days]
    return [curve for _, curve in shown], [style for style, _ in shown]


def _build_curve(other: Player, player: Player, *, label: str = "") -> Curve:
    since = player.history[-1].session_date
    return tables.build_curve(f"{label}{other.user.username}", other.history, since=since)


def _measure_gain(curve: Curve) -> Decimal:
    return curve.equity[-1] - STARTING_CASH


def _show_changes(history: tuple[Portfolio, ...]) -> None:
    st.subheader("Day change", anchor=False)
    st.vega_lite_chart(
        charts.build_changes_chart(history),
        width="stretch",
        alt=f"Gain or loss of each of the last {format_quantity(len(history), 'session')}",
    )
    distribution = charts.build_distribution(history)
    if distribution is None:
        return
    st.vega_lite_chart(distribution.chart, width="stretch", alt=f"Histogram of {len(history)} day changes")
    st.caption(
        "Distribution of day changes. "
        f"Dashed line: median ({escape_markdown(format_signed_money(distribution.median))})."
    )


def _show_holdings(history: tuple[Portfolio, ...]) -> None:
    st.subheader("Cash and invested", anchor=False)
    st.vega_lite_chart(
        charts.build_holdings_chart(history),
        width="stretch",
        alt=f"Cash and invested value at the close of the last {format_quantity(len(history), 'session')}",
    )


def _show_rank_history(service: EnhancedDatabaseService, player: Player) -> None:
    st.subheader("Rank over time", anchor=False)
    newest = player.history[0].session_date
    categories = {item.name: item for item in list_categories(service, newest)}
    category = categories[filters.select_option("Leaderboard", categories, key="board", noun="leaderboard")]
    scores = data.list_rank_history(service, player, category)
    if not scores:
        st.caption(f"No score for {category.name.lower()} in these sessions.")
        return
    best = format_rank(min(row.rank for row in scores if row.rank is not None))
    st.vega_lite_chart(
        charts.build_rank_chart(scores),
        width="stretch",
        alt=f"Rank by {category.name.lower()} in {format_quantity(len(scores), 'session')}, the best {best}",
    )
    st.caption(f"Best rank: {best}, in {format_quantity(len(scores), 'session')} with a score.")


def _show_side_by_side(players: Sequence[Player]) -> None:
    st.subheader("Side by side", anchor=False)
    for column, player in zip(st.columns(len(players), gap="medium"), players, strict=True):
        with column, st.container(border=True):
            st.markdown(f"**{escape_markdown(player.user.name or player.user.username)}**")
            _show_player_record(player)


def _show_player_record(player: Player) -> None:
    record = tables.summarize_history(player.history)
    curve = _build_curve(player, player)
    metrics = {
        "Total gain": format_signed_money(_measure_gain(curve)),
        "Average change": format_signed_money(record.average_change),
        "Sessions won": f"{format_count(record.won)} of {format_count(record.sessions)}",
        "Best session": format_signed_money(record.best_change),
        "Worst session": format_signed_money(record.worst_change),
        "Deepest drawdown": format_percent(tables.find_deepest(curve).percent),
    }
    with st.grid(3, min_column_width=110):
        for label, value in metrics.items():
            st.metric(label, value)


def _show_profile(user: User) -> None:
    facts = (
        f"- {escape_markdown(label)}: {escape_markdown(text)}" for label, text in tables.list_profile(user)
    )
    with st.expander("Profile and preferences"):
        st.markdown("\n".join(facts))


def _show_sessions(history: tuple[Portfolio, ...]) -> None:
    st.subheader("Sessions", anchor=False)
    money = st.column_config.NumberColumn
    show_table(
        tables.build_sessions_table(history),
        {
            "session": st.column_config.DateColumn("Session", format="YYYY-MM-DD"),
            "value": money("Total value", format="dollar"),
            "change": money("Day change ($)", format="%+,.2f"),
            "change_percent": money("Day change (%)", format="%+,.2f%%"),
            "cash": money("Cash", format="dollar"),
            "invested": money("Invested", format="dollar"),
        },
        alt=f"The last {len(history)} sessions, newest first",
    )


show_portfolios()
