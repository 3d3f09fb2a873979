"""The sections of the Portfolios page. Each function shows values that were read before; none reads any."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Final

import streamlit as st

from core.records import PlayerScore, Portfolio, Quest, User
from dashboard.categories import Category
from dashboard.elements import (
    CARD_PIXELS,
    ChangeColumn,
    build_count_column,
    build_day_column,
    show_metric,
    show_table,
)
from dashboard.formats import (
    escape_markdown,
    format_day,
    format_money,
    format_percent,
    format_points,
    format_quantity,
    format_rank_of,
    format_score,
    format_share,
    format_signed_money,
    is_zero,
)
from dashboard.pages.portfolios import charts, data, tables
from dashboard.pages.portfolios.data import Player
from dashboard.pages.portfolios.tables import Curve, Summary, describe_window

_text, _number = st.column_config.TextColumn, st.column_config.NumberColumn
_money = partial(_number, format="dollar")

GAIN_COLUMNS: Final = {
    "symbol": _text("Symbol", pinned=True, width=110),
    "gain": ChangeColumn("Gain ($)", help="Realised and unrealised, over the window"),
    "points": ChangeColumn("Gain (pts)", help="The gain in percent of the starting cash of 10,000"),
    "session": ChangeColumn("Last session ($)", help="The gain in the newest session played"),
    "shares": _number("Shares held", format="localized", help="In the newest session played"),
    "paid": _money("Paid a share ($)", help="Average price of the shares held"),
    "realised": ChangeColumn("Realised ($)", help="Sales, less what the sold shares cost"),
    "unrealised": ChangeColumn(
        "Unrealised ($)", help="Value of the shares held at the end of each session, less their cost"
    ),
    "bought": _money("Bought ($)", help="Sum of all purchases in the window"),
    "sold": _money("Sold ($)", help="Sum of all sales in the window"),
    "trades": build_count_column("Trades", help="Purchases and sales in the window"),
    "sessions": build_count_column("Sessions", help="Sessions in which the player held or traded the symbol"),
}
SESSION_COLUMNS: Final = {
    "session": build_day_column("Session", pinned=True),
    "value": _money("Total value"),
    "change": ChangeColumn("Day change ($)"),
    "change_percent": ChangeColumn("Day change (%)", unit="%"),
    "cash": _money("Cash"),
    "invested": _money("Invested"),
    "state": _text("State"),
}
NOW: Final = "As of the last refresh."
GAINS_AGE: Final = "Up to five minutes old."
RECORD_HELP: Final = {
    "Total gain": "Sum of the day changes.",
    "Average change": "Mean of the day changes.",
    "Sessions won": "Sessions with a day change above zero.",
    "Best and worst": "The highest and the lowest day change.",
    "Best session": "The highest day change.",
    "Worst session": "The lowest day change.",
    "Deepest drawdown": "Largest fall of the equity below its earlier peak, in percent of the peak.",
}
"""The explanation of each metric of finished sessions, by its label."""
GAINS_EXPLAINED: Final = (
    "The gain of a symbol is its realised plus its unrealised gain. Realised: sales, less what the sold "
    "shares cost. Unrealised: value of the shares held at the end of a session (in an open session, now), "
    "less what they cost. There are no fees, and cash gains nothing. All gains, with the part that is not "
    "explained, add up to the change of value. Market average: mean return of all symbols in each session, "
    "from its first price to its last."
)


def show_ranks(ranks: Iterable[data.PlayerRank]) -> None:
    """Show a player's rank on each leaderboard."""
    with st.grid(3, min_column_width=CARD_PIXELS):
        for rank in ranks:
            entry, category = rank.entry, rank.category
            if entry:
                place = format_rank_of(entry.rank, rank.players)
                note = f"score {format_score(entry.score, category.unit)}"
            else:
                place, note = "Not ranked", "no score this session"
            name = escape_markdown(category.name)
            show_metric(name, place, note, help=f"Rank by score. {category.explanation} {NOW}")


def show_quests(quests: Sequence[Quest]) -> None:
    """Show a player's running quests as cards."""
    if not quests:
        st.caption("No running quest. Ended quests are on the Quests page.")
    now = datetime.now(UTC)
    for quest in quests:
        card = tables.build_quest_card(quest, now)
        with st.container(border=True, gap="xsmall"):
            st.markdown(f"**{escape_markdown(card.title)}**")
            if card.description:
                st.caption(escape_markdown(card.description))
            st.progress(card.percent, text=card.progress)
            facts = [f"Reward: {card.reward}" if card.reward else "", card.time_left]
            st.caption(" · ".join(escape_markdown(fact) for fact in facts if fact))


def _list_days(player: Player) -> charts.Days:
    """Return the x axis of the player's charts, which begins at `player.since`."""
    return charts.Days(player.since, player.today, player.held)


def show_newest_session(player: Player) -> None:
    """Show the player's name and four metrics of the newest session."""
    user, portfolio = player.user, player.newest
    day = format_day(portfolio.session_date)
    newest = f"today's session ({day}) is open: figures so far" if player.is_open else f"newest session {day}"
    attendance = "" if player.is_one_session else f"{tables.describe_attendance(player)} · "
    st.header(escape_markdown(user.name or user.username), anchor=False)
    st.caption(
        f"@{escape_markdown(user.username)} · {newest} · {attendance}"
        f"joined {format_day(user.created_at.astimezone(UTC).date())}"
    )
    st.header(tables.describe_newest(player), anchor=False)
    percent = portfolio.day_change_percent

    def show_part(label: str, amount: Decimal, meaning: str) -> None:
        show_metric(
            label,
            format_money(amount),
            format_share(amount, portfolio.total_value),
            delta_description="of the value",
            help=f"{meaning} {NOW}",
        )

    with st.grid(4, min_column_width=CARD_PIXELS):
        show_metric(
            "Total value",
            format_money(portfolio.total_value),
            f"from {format_money(portfolio.starting_cash)}",
            help=f"Cash and shares at the end of the newest session or, while it is open, now. {NOW}",
        )
        show_metric(
            "Change so far" if player.is_open else "Day change",
            format_signed_money(portfolio.day_change),
            format_percent(percent),
            is_change=not player.is_open and not is_zero(percent),
            help=f"Gain or loss of the newest session. Below: in percent of the starting cash. {NOW}",
        )
        show_part("Cash", portfolio.current_cash, "Money that is not invested.")
        show_part("Invested", tables.measure_invested(portfolio), "Value of the shares held.")


def show_record(player: Player) -> None:
    """Show the metrics of the finished sessions of the window."""
    record = tables.summarize_history(player.finished)
    st.header(f"Finished sessions of {describe_window(player.window)}", anchor=False)
    if record is None:
        st.caption(
            f"No finished session in {describe_window(player.window)}; the newest session is that of "
            f"{format_day(player.newest.session_date)}. Choose a longer window to see more."
        )
        return

    def explain(label: str) -> str:
        window = describe_window(player.window)
        return f"{RECORD_HELP[label]} Of the finished sessions of {window} that were played. {NOW}"

    with st.grid(3, min_column_width=CARD_PIXELS):
        show_metric(
            "Sessions won",
            _format_won(record),
            f"{format_share(record.won, record.sessions)} ended with a gain",
            help=explain("Sessions won"),
        )
        show_metric(
            "Average change",
            format_signed_money(record.average_change),
            "a session",
            help=explain("Average change"),
        )
        show_metric(
            "Best and worst",
            format_signed_money(record.best_change),
            f"to {format_signed_money(record.worst_change)}",
            help=explain("Best and worst"),
        )


def _format_won(record: Summary) -> str:
    return f"{record.won:,} of {record.sessions:,}"


def show_gains(player: Player, gains: data.Gains) -> None:
    """Show the gain of each symbol, compared with the market."""
    compared = tables.compare_with_market(gains.window, gains.market)
    incomplete = sum(symbol.incomplete for symbol in gains.window.symbols)
    window = tables.describe_newest(player) if player.is_one_session else describe_window(player.window)
    st.header(f"Where the change of value comes from: {window[0].lower()}{window[1:]}", anchor=False)
    st.caption(tables.describe_gains(gains.window))
    with st.grid(4, min_column_width=CARD_PIXELS):
        show_metric(
            "Change of value",
            format_signed_money(gains.window.change),
            f"{format_percent(compared.player)} in {format_quantity(compared.sessions, 'session')}",
            help="Sum of the day changes of all sessions that the player has played in the window; an open "
            f"session counts so far. Below: in percent of the starting cash. {GAINS_AGE}",
        )
        show_metric(
            "Market average",
            format_percent(compared.market),
            f"{compared.priced:,} of {format_quantity(compared.sessions, 'session')} with prices",
            help="Mean return of all symbols in a session, from its first price to its last, summed over the "
            f"sessions that the player has played. {GAINS_AGE}",
        )
        show_metric(
            "Ahead of the market",
            format_points(compared.player - compared.market),
            "of the starting cash",
            help=f"The player's change minus the market average, in percentage points. {GAINS_AGE}",
        )
        show_metric(
            "Not explained",
            format_signed_money(gains.window.unexplained),
            f"{format_quantity(incomplete, 'position')} without a price or trade"
            if incomplete
            else "by trades and prices",
            help=f"Change of value minus the gains of all symbols. {GAINS_AGE}",
        )
    table = tables.build_gains_table(gains.window, gains.newest, gains.positions)
    if not table.num_rows:
        # the caption above already says that no symbol gained or lost
        return
    st.vega_lite_chart(
        charts.build_gains_chart(gains.window),
        width="stretch",
        alt=f"What each of {format_quantity(len(gains.window.symbols), 'symbol')} added to the value",
    )
    # the table is below the chart, because it is too wide to stand beside it
    show_table(
        table,
        {**GAIN_COLUMNS, "session": None} if player.is_one_session else GAIN_COLUMNS,
        alt="What each symbol added to the value",
        on_phone=("symbol", "gain", "points", "trades"),
        on_tablet=("symbol", "gain", "points", "shares", "realised", "unrealised", "trades"),
        placeholder="",
    )
    st.caption(GAINS_EXPLAINED)


def show_equity(player: Player, rival: Player | None, equity: data.Equity) -> None:
    """Show the chart of equity curves and the chart of the drawdown."""
    curves, styles = _list_curves(player, rival, equity)
    own, days = curves[0], _list_days(player)
    gains = (f"{curve.name} {format_signed_money(curve.gain)}" for curve in curves)
    st.header("Equity", anchor=False)
    st.vega_lite_chart(
        charts.build_equity_chart(tuple(curves), tuple(styles), days),
        width="stretch",
        alt=f"Equity over {format_quantity(len(own.days), 'session')}: {', '.join(gains)}",
    )
    st.caption(
        "\\$10,000 plus all gains since the first session shown. Market average: equal parts of all symbols, "
        "bought at the start and sold at the end of each session that the player has played. A thin line "
        "leads over missed sessions."
    )
    st.header("Drawdown", anchor=False)
    record = tables.summarize_history(player.finished)
    deepest = record.deepest if record else None
    where = f"in the finished sessions of {describe_window(player.window)}"
    if deepest and deepest.percent:
        text = f"Deepest {where}: {format_percent(deepest.percent)} on {format_day(deepest.day)}."
    else:
        text = f"The equity was never below its peak {where}."
    st.vega_lite_chart(
        charts.build_drawdown_chart(own, days),
        width="stretch",
        alt=f"Distance of the equity from its peak. {text}",
    )
    st.caption(text)


def _list_curves(player: Player, rival: Player | None, equity: data.Equity) -> tuple[list[Curve], list[int]]:
    """Return the equity curves, first the player's, and the index in `charts.LINES` for each curve."""
    since = player.history[-1].session_date
    own = tables.build_curve(player.user.username, player.history)
    curves = [(0, own), (1, tables.build_market_curve(equity.market))]
    if equity.leader and not (rival and equity.leader.id == rival.user.id):
        day = player.newest.session_date
        of = "Today's leader" if player.is_open else f"Leader of {day.day} {day:%b %Y}"
        name = f"{of}: {equity.leader.username}"
        curves.append((2, tables.build_curve(name, equity.leader_history, since=since)))
    if rival:
        curves.append((3, tables.build_curve(rival.user.username, rival.history, since=since)))
    shown = [(style, curve) for style, curve in curves if curve.days]
    return [curve for _, curve in shown], [style for style, _ in shown]


def show_changes(player: Player) -> None:
    """Show the chart of day changes and the distribution of these changes."""
    missed = len(player.missed)
    st.header("Day change", anchor=False)
    st.vega_lite_chart(
        charts.build_changes_chart(player.history, _list_days(player)),
        width="stretch",
        alt=f"Gain or loss of each of {format_quantity(len(player.history), 'session')}, {missed} missed",
    )
    if missed:
        st.caption(f"Grey marks: {format_quantity(missed, 'finished session')} that the player did not play.")
    distribution = charts.build_distribution(player.finished)
    if distribution is None:
        return
    st.vega_lite_chart(
        distribution.chart, width="stretch", alt=f"Histogram of {len(player.finished)} day changes"
    )
    st.caption(
        "Distribution of the day changes of finished sessions. "
        f"Dashed line: median ({escape_markdown(format_signed_money(distribution.median))})."
    )


def show_holdings(player: Player) -> None:
    """Show the chart of cash and invested value by session."""
    st.header("Cash and invested", anchor=False)
    st.vega_lite_chart(
        charts.build_holdings_chart(player.history, _list_days(player)),
        width="stretch",
        alt=f"Cash and invested value of {format_quantity(len(player.history), 'session')}",
    )


def show_rank_chart(player: Player, category: Category, scores: tuple[PlayerScore, ...]) -> None:
    """Show the chart of the player's rank on a leaderboard by session."""
    if not scores:
        st.caption(f"No score for {escape_markdown(category.name.lower())} in these sessions.")
        return
    ranks = [row.rank for row in scores if row.rank is not None and row.session_date < player.today]
    best = f"best rank in a finished session: {min(ranks):,}" if ranks else "none of them finished"
    shown = f"{format_quantity(len(scores), 'session')} with a score; {best}"
    st.vega_lite_chart(
        charts.build_rank_chart(scores, _list_days(player)),
        width="stretch",
        alt=f"Rank by {category.name.lower()} in {shown}",
    )
    st.caption(f"{shown}.")


def show_side_by_side(player: Player, rival: Player) -> None:
    """Compare two players over the sessions of the window that both have finished.

    If there is no such session, compare them in the open session; otherwise say that they have none in
    common.
    """
    own, other = tables.list_common(player, rival)
    st.header("Side by side", anchor=False)
    window = describe_window(player.window)
    if own:
        both = format_quantity(len(own), "session")
        st.caption(f"Over the {both} of {window} that both players have finished.")
        shows = partial(_show_player_record, own), partial(_show_player_record, other)
    elif player.is_open and rival.is_open:
        st.caption("In the open session, so far.")
        shows = partial(_show_so_far, player.newest), partial(_show_so_far, rival.newest)
    else:
        st.caption(f"The two have no finished session of {window} in common.")
        return
    users = (player.user, rival.user)
    for column, user, show in zip(st.columns(2, gap="medium"), users, shows, strict=True):
        with column, st.container(border=True):
            st.markdown(f"**{escape_markdown(user.name or user.username)}**")
            show()


def _show_so_far(portfolio: Portfolio) -> None:
    with st.grid(2, min_column_width=110):
        st.metric("Total value", format_money(portfolio.total_value), help=NOW)
        st.metric("Gain", format_signed_money(portfolio.day_change), help=NOW)


def _show_player_record(finished: Sequence[Portfolio]) -> None:
    record = tables.summarize_history(finished)
    if record is None:
        return
    metrics = {
        "Total gain": format_signed_money(record.gain),
        "Average change": format_signed_money(record.average_change),
        "Sessions won": _format_won(record),
        "Best session": format_signed_money(record.best_change),
        "Worst session": format_signed_money(record.worst_change),
        "Deepest drawdown": format_percent(record.deepest.percent),
    }
    with st.grid(3, min_column_width=110):
        for label, value in metrics.items():
            st.metric(
                label, value, help=f"{RECORD_HELP[label]} Of the sessions that both have finished. {NOW}"
            )


def show_profile(user: User) -> None:
    """Show the player's profile in a collapsed part of the page."""
    facts = (
        f"- {escape_markdown(label)}: {escape_markdown(text)}" for label, text in tables.list_profile(user)
    )
    with st.expander("Profile"):
        st.markdown("\n".join(facts))


def show_sessions(player: Player) -> None:
    """Show the sessions of the window as a table."""
    st.header("Sessions", anchor=False)
    show_table(
        tables.build_sessions_table(player.history, player.today),
        SESSION_COLUMNS,
        alt=f"{format_quantity(len(player.history), 'session')}, newest first",
        on_phone=("session", "value", "change"),
    )
