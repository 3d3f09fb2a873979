"""The headlines and the table of the Overview page. Pure functions.

The values of an open session are marked "so far" and are never shown as better or worse than those of a
finished session. Trends contain finished sessions only.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pandas as pd

from core.records import SeenPlayers, SessionSummary
from dashboard.formats import (
    Number,
    format_change,
    format_count,
    format_minute,
    format_percent,
    format_points,
    format_quantity,
    is_zero,
)
from dashboard.pages.overview.data import DAY, Market

SEEN_HELP = (
    "Players whose last activity was today (since 00:00 UTC), or who have a portfolio of today's session."
)
PLAYED_HELP = "Players with a portfolio of the session."
TRADED_HELP = "Players with at least one trade in the session."
PLAYERS_HELP = "All players who had signed up by the end of the day of the session (UTC)."
RETURN_HELP = "Of all players with a score, in percent of the starting cash of 10,000."
QUESTS_HELP = "Quests completed on the day of the session (UTC), by their time of completion."
EVENTS_HELP = "Market events on the day of the session (UTC)."
AGE = "Up to one minute old for an open session, and up to 15 minutes for earlier sessions."


class Headline(msgspec.Struct, frozen=True):
    """A metric card of the page. `note` stands below the value, and `help` explains the metric.

    `trend` has the values of the last finished sessions, oldest first. `is_change` says that the note is a
    gain or a loss.
    """

    label: str
    value: str
    help: str
    note: str | None = None
    trend: tuple[float, ...] = ()
    is_change: bool = False


def build_headlines(
    sessions: Sequence[SessionSummary], *, seen_today: SeenPlayers, today: date
) -> tuple[Headline, ...]:
    """Return the headlines of the newest session. `sessions` are newest first, and at least one.

    The session of `today` is open.
    """
    is_open = sessions[0].session_date >= today

    def count(label: str, get_value: Callable[[SessionSummary], int], explanation: str) -> Headline:
        values = [get_value(session) for session in sessions]
        note = None
        if is_open:
            note = _describe_open(sessions, [format_count(value) for value in values])
        elif len(values) > 1:
            note = format_change(values[0] - values[1])
        return Headline(
            label,
            format_count(values[0]),
            f"{explanation} {AGE}",
            note,
            _build_trend(values, is_open=is_open),
        )

    def percent(label: str, get_value: Callable[[SessionSummary], Decimal | None]) -> Headline:
        values = [get_value(session) for session in sessions]
        texts = ["-" if value is None else format_percent(value) for value in values]
        trend = _build_trend(values, is_open=is_open)
        explanation = f"{RETURN_HELP} {AGE}"
        if is_open:
            return Headline(label, texts[0], explanation, _describe_open(sessions, texts), trend)
        if len(values) < 2 or values[0] is None or values[1] is None:
            return Headline(label, texts[0], explanation, None, trend)
        moved = values[0] - values[1]
        return Headline(
            label, texts[0], explanation, format_points(moved), trend, is_change=not is_zero(moved)
        )

    of_all = f"of {format_quantity(seen_today.players, 'player')}"
    return (
        Headline(
            "Seen today",
            format_count(seen_today.seen),
            f"{SEEN_HELP} Up to one minute old.",
            of_all,
        ),
        count("Played", lambda session: session.played, PLAYED_HELP),
        count("Traded", lambda session: session.traded, TRADED_HELP),
        count("Players", lambda session: session.signed_up, PLAYERS_HELP),
        percent("Median return", lambda session: session.median_return),
        percent("Best return", lambda session: session.best_return),
        count("Quests completed", lambda session: session.quests_completed, QUESTS_HELP),
        count("Events of the day", lambda session: session.events, EVENTS_HELP),
    )


def _describe_open(sessions: Sequence[SessionSummary], texts: Sequence[str]) -> str:
    """Return the note for an open session, with the value of the session before: `so far; 14 Mar: 120`."""
    return f"so far; {_format_short(sessions[1].session_date)}: {texts[1]}" if len(texts) > 1 else "so far"


def _format_short(day: date) -> str:
    return f"{day.day} {day:%b}"


def _build_trend(newest_first: Sequence[Number | None], *, is_open: bool) -> tuple[float, ...]:
    finished = newest_first[1:] if is_open else newest_first
    return tuple(float(value) for value in reversed(finished) if value is not None)


def build_sessions_table(sessions: Sequence[SessionSummary], *, today: date) -> pd.DataFrame:
    """Return one row per session, in the given order. The session of `today` is marked "so far"."""
    return pd.DataFrame(
        {
            "session": [session.session_date for session in sessions],
            "state": ["finished" if session.session_date < today else "so far" for session in sessions],
            "played": [session.played for session in sessions],
            "traded": [session.traded for session in sessions],
            "players": [session.players for session in sessions],
            "median": pd.Series([session.median_return for session in sessions], dtype=float),
            "best": pd.Series([session.best_return for session in sessions], dtype=float),
            "quests": [session.quests_completed for session in sessions],
            "events": [session.events for session in sessions],
            "signed_up": [session.signed_up for session in sessions],
        }
    )


def describe_movers(market: Market, now: datetime) -> str:
    """Return sentences: the time of the newest price, and how many symbols the table leaves out."""
    newest = max(tick.timestamp for tick in market.ticks)
    text = f"Prices up to {format_minute(newest.astimezone(UTC))}."
    if now - newest >= DAY:
        text = f"No price in the last 24 hours. {text}"
    if market.stale:
        symbols = format_quantity(market.stale, "symbol")
        text += f" Left out: {symbols} without a price in the 24 hours before."
    return text
