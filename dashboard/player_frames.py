"""A player's sessions turned into curves: equity, drawdown, day changes, ranks.

Owns what is computed for display; pure functions of their arguments. Every session begins
with the same cash, so the equity curve is that cash and all gains since, which is what a
player who never took anything out would see.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import msgspec
import pandas as pd

from core.records import MarketReturn, PlayerScore, Portfolio, User
from dashboard.formats import format_day

STARTING_CASH = Decimal(10_000)


class Curve(msgspec.Struct, frozen=True):
    """An equity curve by session, oldest first; `days` and `equity` are equally long."""

    name: str
    days: tuple[date, ...]
    equity: tuple[Decimal, ...]


class Drawdown(msgspec.Struct, frozen=True):
    """The deepest fall from a peak in percent of it, zero or less, and when it was."""

    percent: Decimal
    day: date


def build_curve(name: str, history: Sequence[Portfolio], *, since: date) -> Curve:
    """Return the equity of a player from a session on; the history is given newest first."""
    rows = [row for row in reversed(history) if row.session_date >= since]
    return _add_up(name, [(row.session_date, row.day_change) for row in rows])


def build_market_curve(returns: Sequence[MarketReturn], days: Sequence[date]) -> Curve:
    """Return the equity of who buys all symbols alike each morning of the given sessions."""
    wanted = set(days)
    gains = [(row.day, STARTING_CASH * row.percent / 100) for row in returns if row.day in wanted]
    return _add_up("Market average", gains)


def _add_up(name: str, gains: Sequence[tuple[date, Decimal]]) -> Curve:
    values, equity = [], STARTING_CASH
    for _, gain in gains:
        equity += gain
        values.append(equity)
    return Curve(name, tuple(day for day, _ in gains), tuple(values))


def build_curves_frame(curves: Sequence[Curve]) -> pd.DataFrame:
    """Return one row per curve and session: name, session, value."""
    rows = [
        (curve.name, day, float(value))
        for curve in curves
        for day, value in zip(curve.days, curve.equity, strict=True)
    ]
    return pd.DataFrame(rows, columns=["name", "session", "value"])


def list_drawdowns(curve: Curve) -> list[Decimal]:
    """Return for each session how far the equity is below its peak so far, in percent, 0 or less."""
    peak, found = STARTING_CASH, []
    for value in curve.equity:
        peak = max(peak, value)
        found.append((value / peak - 1) * 100 if peak > 0 else Decimal(0))
    return found


def build_drawdown_frame(curve: Curve) -> pd.DataFrame:
    """Return one row per session: session, drawdown in percent."""
    drawdowns = [float(value) for value in list_drawdowns(curve)]
    return pd.DataFrame({"session": list(curve.days), "drawdown": drawdowns})


def find_deepest(curve: Curve) -> Drawdown:
    """Return the deepest drawdown of a curve of at least one session."""
    percent, day = min(zip(list_drawdowns(curve), curve.days, strict=True))
    return Drawdown(percent, day)


def build_holdings_frame(history: Sequence[Portfolio]) -> pd.DataFrame:
    """Return two rows per session: session, part (Cash or Invested), value."""
    rows = [
        (row.session_date, part, float(value))
        for row in reversed(history)
        for part, value in (("Cash", row.current_cash), ("Invested", row.total_value - row.current_cash))
    ]
    return pd.DataFrame(rows, columns=["session", "part", "value"])


def build_ranks_frame(scores: Sequence[PlayerScore]) -> pd.DataFrame:
    """Return one row per session: session, rank, score."""
    return pd.DataFrame(
        {
            "session": [row.session_date for row in scores],
            "rank": [row.rank for row in scores],
            "score": [float(row.score) for row in scores],
        }
    )


def list_profile(user: User) -> list[tuple[str, str]]:
    """Return what is known about a player as labels and texts, preferences last."""
    facts = [
        ("Username", user.username),
        ("Name", user.name or "not given"),
        ("Email", mask_email(user.email)),
        ("Playing since", format_day(user.created_at.date())),
        ("Last active", f"{user.last_active:%Y-%m-%d %H:%M} UTC" if user.last_active else "never"),
    ]
    chosen = [(f"Preference: {key}", _describe(value)) for key, value in sorted(user.preferences.items())]
    return facts + (chosen or [("Preferences", "none chosen")])


def mask_email(email: str | None) -> str:
    """Write an address so that it is recognised and not copied: `a…@example.com`."""
    if email is None:
        return "not given"
    local, _, domain = email.partition("@")
    return f"{local[:1]}…@{domain}"


def _describe(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
