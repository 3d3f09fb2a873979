"""A player's sessions as equity curves, summaries, tables and texts. Pure functions.

Every session begins with STARTING_CASH. An equity curve adds the gains of all sessions so far to this cash:
it shows what a player would have if each session began with the result of the session before.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec
import pyarrow as pa

from core.records import STARTING_CASH, MarketReturn, PlayerGains, Portfolio, Position, Quest, User
from dashboard.formats import (
    LAST_SESSION,
    escape_markdown,
    format_day,
    format_number,
    format_quantity,
    format_reward,
    format_signed_money,
    format_time_left,
)
from dashboard.pages.portfolios.data import ALL, Player
from dashboard.pages.quests.tables import measure_progress_percent

CACHE_SIZE = 64
"""Maximum number of results in the cache of each chart and table. All results of a player have some 100 kB.

The page shows the same player again at each refresh.
"""

GAINS_NAMED = 5
"""Maximum number of symbols that `describe_gains` names; it shows one sum for all others."""

UNEXPLAINED = "Not explained"

_GAINS: Final = (
    ("symbol", pa.string()),
    *((name, pa.float64()) for name in ("gain", "points", "session", "shares", "paid")),
    *((name, pa.float64()) for name in ("realised", "unrealised", "bought", "sold")),
    *((name, pa.int64()) for name in ("trades", "sessions")),
)
"""The columns of the gains table and their types. Only the first four columns have a value in every row."""

_STRATEGIES: Final = {
    "buy_and_hold": "Favourites: buys the same symbols in each session",
    "momentum": "Momentum: buys the symbols that rose most",
    "mean_reversion": "Mean reversion: buys the symbols that fell most",
    "cash": "Cash: buys nothing",
}


class Curve(msgspec.Struct, frozen=True):
    """An equity curve: the equity at the end of each session, oldest first."""

    name: str
    days: tuple[date, ...]
    equity: tuple[Decimal, ...]

    @property
    def gain(self) -> Decimal:
        """The sum of the gains of all sessions of the curve."""
        return self.equity[-1] - STARTING_CASH if self.equity else Decimal(0)


class Drawdown(msgspec.Struct, frozen=True):
    """How far the equity of a session is below its peak so far, in percent of the peak: 0 or negative."""

    percent: Decimal
    day: date


class Summary(msgspec.Struct, frozen=True):
    """Sums and extremes of finished sessions. `won` is the number of sessions that ended with a gain."""

    sessions: int
    won: int
    average_change: Decimal
    best_change: Decimal
    worst_change: Decimal
    gain: Decimal
    deepest: Drawdown


class Comparison(msgspec.Struct, frozen=True):
    """The gains of a player and of the market over the same sessions, in percent of the starting cash.

    `sessions` is the number of sessions, and `priced` the number of those with market prices.
    """

    player: Decimal
    market: Decimal
    sessions: int
    priced: int


class QuestCard(msgspec.Struct, frozen=True):
    """The texts that the card of an active quest shows, and the quest's progress in percent."""

    title: str
    description: str
    percent: int
    progress: str
    reward: str
    time_left: str


def describe_window(window: str) -> str:
    """Return the name of a window inside a sentence: `the last 90 days`, `all time`."""
    if window == LAST_SESSION:
        return "the last session"
    return "all time" if window == ALL else f"the last {window.removeprefix('1 ')}"


def describe_newest(player: Player) -> str:
    """Return the name of the newest session: `Today's session, so far` or `Session of Fri 1 Mar 2013`."""
    day = player.newest.session_date
    return "Today's session, so far" if player.is_open else f"Session of {format_day(day)}"


def describe_gains(gains: PlayerGains) -> str:
    """Return a sentence that divides the change of value into the gains of symbols, as Markdown.

    For example `+$12.50 = A +$20.00, B -$7.50.` The symbol with the largest gain or loss comes first.
    """
    parts = sorted(
        ((gain.symbol, gain.gain) for gain in gains.symbols if gain.gain),
        key=lambda part: (-abs(part[1]), part[0]),
    )
    rest = sum((gain for _, gain in parts[GAINS_NAMED:]), Decimal(0))
    named = [f"{symbol} {format_signed_money(gain)}" for symbol, gain in parts[:GAINS_NAMED]]
    named += [f"other symbols {format_signed_money(rest)}"] if len(parts) > GAINS_NAMED else []
    named += [f"not explained {format_signed_money(gains.unexplained)}"] if gains.unexplained else []
    text = (
        f"{format_signed_money(gains.change)} = {', '.join(named)}." if named else "No symbol gained or lost."
    )
    played = f"In all {gains.sessions:,} sessions played: " if gains.sessions > 1 else ""
    return escape_markdown(f"{played}{text}")


def describe_attendance(player: Player) -> str:
    """Return how many of the game's finished sessions the player has played, as Markdown."""
    finished = [day for day in player.held if day < player.today]
    played = len(player.finished)
    text = f"Played {played:,} of {format_quantity(len(finished), 'finished session')}"
    text += f" since {format_day(player.since)}"
    if player.history and player.history[0].session_date >= player.today:
        text += ", and today's so far"
    return escape_markdown(text)


def build_curve(name: str, history: Sequence[Portfolio], *, since: date = date.min) -> Curve:
    """Return the equity curve of a player, beginning with the session `since`. `history` is newest first."""
    rows = [row for row in reversed(history) if row.session_date >= since]
    return _add_up(name, [(row.session_date, row.day_change) for row in rows])


def build_market_curve(returns: Sequence[MarketReturn]) -> Curve:
    """Return the equity curve of a player who buys equal parts of all symbols in each of these sessions."""
    return _add_up("Market average", [(row.day, STARTING_CASH * row.percent / 100) for row in returns])


def _add_up(name: str, gains: Sequence[tuple[date, Decimal]]) -> Curve:
    values, equity = [], STARTING_CASH
    for _, gain in gains:
        equity += gain
        values.append(equity)
    return Curve(name, tuple(day for day, _ in gains), tuple(values))


def list_drawdowns(curve: Curve) -> list[Drawdown]:
    """Return the drawdown at the end of each session of the curve."""
    peak, found = STARTING_CASH, []
    for day, value in zip(curve.days, curve.equity, strict=True):
        peak = max(peak, value)
        found.append(Drawdown((value / peak - 1) * 100 if peak > 0 else Decimal(0), day))
    return found


def find_deepest(curve: Curve) -> Drawdown:
    """Return the deepest drawdown of a curve, the earliest of equal ones. The curve must not be empty."""
    return min(list_drawdowns(curve), key=lambda drawdown: (drawdown.percent, drawdown.day))


def measure_invested(portfolio: Portfolio) -> Decimal:
    """Return the part of a portfolio's value that is not cash."""
    return portfolio.total_value - portfolio.current_cash


def summarize_history(finished: Sequence[Portfolio]) -> Summary | None:
    """Return the sums and extremes of finished sessions (newest first), or None without sessions."""
    changes = [row.day_change for row in finished]
    if not changes:
        return None
    gain = sum(changes, Decimal(0))
    return Summary(
        sessions=len(changes),
        won=sum(change > 0 for change in changes),
        average_change=gain / len(changes),
        best_change=max(changes),
        worst_change=min(changes),
        gain=gain,
        deepest=find_deepest(build_curve("", finished)),
    )


def list_common(player: Player, rival: Player) -> tuple[tuple[Portfolio, ...], tuple[Portfolio, ...]]:
    """Return the sessions that both have finished, newest first: once for the player, once for the rival."""
    days = {row.session_date for row in player.finished} & {row.session_date for row in rival.finished}
    own, other = (tuple(row for row in each.finished if row.session_date in days) for each in (player, rival))
    return own, other


def compare_with_market(gains: PlayerGains, market: Sequence[MarketReturn]) -> Comparison:
    """Return the gains of a player and of the market over the same sessions."""
    return Comparison(
        player=measure_points(gains.change),
        market=sum((row.percent for row in market), Decimal(0)),
        sessions=gains.sessions,
        priced=len(market),
    )


def measure_points(gain: Decimal) -> Decimal:
    """Return a gain in percent of the starting cash."""
    return gain * 100 / STARTING_CASH


@lru_cache(CACHE_SIZE)
def build_gains_table(window: PlayerGains, newest: PlayerGains, positions: tuple[Position, ...]) -> pa.Table:
    """Return one row per symbol: its gain in the window and in the newest session, the largest gain first.

    The last row is the change that trades do not explain, if there is any. With this row, each column of
    gains adds up to the change of value. The columns `shares` and `paid` describe the positions in the newest
    session.
    """
    in_session = {gain.symbol: gain.gain for gain in newest.symbols}
    held = {position.symbol: position for position in positions}
    rows: list[dict[str, Any]] = [
        {
            "symbol": gain.symbol,
            "gain": gain.gain,
            "session": in_session.get(gain.symbol, Decimal(0)),
            "shares": held[gain.symbol].quantity if gain.symbol in held else None,
            "paid": held[gain.symbol].average_price if gain.symbol in held else None,
            "realised": gain.realised,
            "unrealised": gain.unrealised,
            "bought": gain.bought,
            "sold": gain.sold,
            "trades": gain.trades,
            "sessions": gain.sessions,
        }
        for gain in sorted(window.symbols, key=lambda gain: (-gain.gain, gain.symbol))
    ]
    if window.unexplained or newest.unexplained:
        rows.append({"symbol": UNEXPLAINED, "gain": window.unexplained, "session": newest.unexplained})
    for row in rows:
        row["points"] = measure_points(row["gain"])
    return pa.table(
        {name: pa.array([_to_float(row.get(name)) for row in rows], kind) for name, kind in _GAINS}
    )


def _to_float(value: Any) -> Any:
    """Return a Decimal as a float, for Arrow, and any other value unchanged. Adding 0 avoids -0.0."""
    return float(value) + 0.0 if isinstance(value, Decimal) else value


@lru_cache(CACHE_SIZE)
def build_sessions_table(history: tuple[Portfolio, ...], today: date) -> pa.Table:
    """Return one row per session, in the given order. Sessions before `today` are finished."""
    return pa.table(
        {
            "session": [row.session_date for row in history],
            "value": [float(row.total_value) for row in history],
            "change": [float(row.day_change) for row in history],
            "change_percent": [float(row.day_change_percent) for row in history],
            "cash": [float(row.current_cash) for row in history],
            "invested": [float(measure_invested(row)) for row in history],
            "state": ["finished" if row.session_date < today else "open, so far" for row in history],
        }
    )


def build_quest_card(quest: Quest, now: datetime) -> QuestCard:
    """Return the content of the card of an active quest."""
    return QuestCard(
        title=quest.title,
        description=quest.description or "",
        percent=measure_progress_percent(quest),
        progress=f"{format_number(quest.current_progress)} of {format_number(quest.target_value)}",
        reward=format_reward(quest.reward_type, quest.reward_value),
        time_left=format_time_left(quest.expires_at, now),
    )


def list_profile(user: User) -> list[tuple[str, str]]:
    """Return the profile of a player as (label, text) pairs.

    Of the player's preferences, it has only the strategy.
    """
    facts = [
        ("Username", user.username),
        ("Name", user.name or "not given"),
        ("Email", _mask_email(user.email)),
        ("Joined", format_day(user.created_at.astimezone(UTC).date())),
        ("Last seen", f"{user.last_active:%Y-%m-%d %H:%M} UTC" if user.last_active else "never"),
    ]
    strategy = describe_strategy(user.preferences)
    return [*facts, ("Strategy", strategy)] if strategy else facts


def describe_strategy(preferences: Mapping[str, Any]) -> str:
    """Return the strategy of a simulated player in words; empty for a player without a known strategy."""
    strategy = preferences.get("strategy")
    text = _STRATEGIES.get(strategy, "") if isinstance(strategy, str) else ""
    lookback, symbols, invested = (
        preferences.get(key) for key in ("lookback", "symbols", "invested_percent")
    )
    if text and isinstance(lookback, int):
        text += f" over {format_quantity(lookback, 'trading day')}"
    if text and isinstance(symbols, int):
        text += f", at most {symbols} of them"
    if text and isinstance(invested, int):
        text += f", for {invested}% of the cash"
    return text


def _mask_email(email: str | None) -> str:
    """Hide most of an e-mail address, so that it can be recognised but not used: `a…@example.com`."""
    if email is None:
        return "not given"
    local, at, domain = email.partition("@")
    if not at:
        # no address: if the service cannot decrypt an address, it returns a text that names the missing key
        return "unreadable"
    return f"{local[:1]}…@{domain}"
