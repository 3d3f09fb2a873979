"""A player's sessions as equity curves, summaries and tables; pure functions.

Every session begins with the same cash. The equity curve is that cash plus all gains since, which is what
a player would have who never took anything out.
"""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache

import msgspec
import pyarrow as pa

from core.records import MarketReturn, Portfolio, Quest, User
from dashboard.formats import format_day, format_number, format_reward, format_time_left
from dashboard.pages.quests.tables import measure_progress

STARTING_CASH = Decimal(10_000)

PLAYERS_KEPT = 64
"""Players whose charts and tables are kept, some 100 kB each: a page draws the same player repeatedly."""


class Curve(msgspec.Struct, frozen=True):
    """An equity curve by session, oldest first; `days` and `equity` have the same length."""

    name: str
    days: tuple[date, ...]
    equity: tuple[Decimal, ...]


class Drawdown(msgspec.Struct, frozen=True):
    """The distance of the equity from its peak in percent of the peak (0 or less), and its session."""

    percent: Decimal
    day: date


class Summary(msgspec.Struct, frozen=True):
    """Day changes of the sessions shown."""

    sessions: int
    won: int
    average_change: Decimal
    best_change: Decimal
    worst_change: Decimal


class Invested(msgspec.Struct, frozen=True):
    """The part of a portfolio's value that is not cash."""

    amount: Decimal
    percent: Decimal


class QuestCard(msgspec.Struct, frozen=True):
    """The texts of an active quest; `fraction` is from 0 to 1."""

    title: str
    description: str
    fraction: float
    progress: str
    reward: str
    time_left: str


def build_curve(name: str, history: Sequence[Portfolio], *, since: date) -> Curve:
    """Return the equity of a player from a session on; the history is given newest first."""
    rows = [row for row in reversed(history) if row.session_date >= since]
    return _add_up(name, [(row.session_date, row.day_change) for row in rows])


def build_market_curve(returns: Sequence[MarketReturn], days: Sequence[date]) -> Curve:
    """Return the equity of buying equal parts of all symbols each morning of these sessions."""
    wanted = set(days)
    gains = [(row.day, STARTING_CASH * row.percent / 100) for row in returns if row.day in wanted]
    return _add_up("Market average", gains)


def _add_up(name: str, gains: Sequence[tuple[date, Decimal]]) -> Curve:
    values, equity = [], STARTING_CASH
    for _, gain in gains:
        equity += gain
        values.append(equity)
    return Curve(name, tuple(day for day, _ in gains), tuple(values))


def list_drawdowns(curve: Curve) -> list[Drawdown]:
    """Return the drawdown at the close of each session."""
    peak, found = STARTING_CASH, []
    for day, value in zip(curve.days, curve.equity, strict=True):
        peak = max(peak, value)
        found.append(Drawdown((value / peak - 1) * 100 if peak > 0 else Decimal(0), day))
    return found


def find_deepest(curve: Curve) -> Drawdown:
    """Return the deepest drawdown of a curve of at least one session, the first of equal ones."""
    return min(list_drawdowns(curve), key=lambda drawdown: (drawdown.percent, drawdown.day))


def measure_invested(portfolio: Portfolio) -> Invested:
    """Return what a portfolio has invested; a portfolio without value has nothing invested."""
    amount = portfolio.total_value - portfolio.current_cash
    return Invested(amount, amount / portfolio.total_value * 100 if portfolio.total_value else Decimal(0))


def summarize_history(history: Sequence[Portfolio]) -> Summary:
    """Return the summary of at least one session."""
    changes = [row.day_change for row in history]
    return Summary(
        sessions=len(changes),
        won=sum(change > 0 for change in changes),
        average_change=sum(changes, Decimal(0)) / len(changes),
        best_change=max(changes),
        worst_change=min(changes),
    )


@lru_cache(PLAYERS_KEPT)
def build_sessions_table(history: tuple[Portfolio, ...]) -> pa.Table:
    """Return one row per session in the order given, as Arrow, which is what a page sends."""
    return pa.table(
        {
            "session": [row.session_date for row in history],
            "value": [float(row.total_value) for row in history],
            "change": [float(row.day_change) for row in history],
            "change_percent": [float(row.day_change_percent) for row in history],
            "cash": [float(row.current_cash) for row in history],
            "invested": [float(row.total_value - row.current_cash) for row in history],
        }
    )


def build_quest_card(quest: Quest, now: datetime) -> QuestCard:
    """Return the texts of an active quest."""
    return QuestCard(
        title=quest.title,
        description=quest.description or "",
        fraction=measure_progress(quest),
        progress=f"{format_number(quest.current_progress)} of {format_number(quest.target_value)}",
        reward=format_reward(quest.reward_type, quest.reward_value),
        time_left=format_time_left(quest.expires_at, now),
    )


def list_profile(user: User) -> list[tuple[str, str]]:
    """Return the profile of a player as labels and texts, preferences last."""
    facts = [
        ("Username", user.username),
        ("Name", user.name or "not given"),
        ("Email", _mask_email(user.email)),
        ("Playing since", format_day(user.created_at.date())),
        ("Last active", f"{user.last_active:%Y-%m-%d %H:%M} UTC" if user.last_active else "never"),
    ]
    preferences = [
        (f"Preference: {key}", {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value))
        for key, value in sorted(user.preferences.items())
    ]
    return facts + (preferences or [("Preferences", "none")])


def _mask_email(email: str | None) -> str:
    """Write an address so that it can be recognised but not copied: `a…@example.com`."""
    if email is None:
        return "not given"
    local, _, domain = email.partition("@")
    return f"{local[:1]}…@{domain}"
