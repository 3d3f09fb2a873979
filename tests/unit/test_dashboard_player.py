"""What the portfolios page asks for beyond a player's sessions."""

from datetime import date, timedelta

from core.service.standings import MAX_MARKET_DAYS
from dashboard.player_data import SPANS_READ, split_days

DAY = date(2013, 3, 1)


def test_days_without_a_long_gap_are_one_span() -> None:
    """Weekends and holidays do not part a history."""
    days = [DAY, DAY + timedelta(days=3), DAY + timedelta(days=20)]
    assert split_days(days) == ((days[0], days[-1]),)


def test_years_without_a_session_part_a_history() -> None:
    """The market of the years between is not asked for."""
    today = date(2026, 11, 25)
    assert split_days([DAY, today]) == ((DAY, DAY), (today, today))


def test_no_span_is_longer_than_the_service_reads() -> None:
    """One session a week for eleven years: two questions that leave no session out."""
    days = [DAY + timedelta(weeks=week) for week in range(574)]
    (first, end), (begin, last) = split_days(days)
    assert (first, last) == (days[0], days[-1])
    assert begin - end == timedelta(weeks=1)
    assert (end - first).days < MAX_MARKET_DAYS


def test_only_the_newest_spans_are_read() -> None:
    """A player who comes back every few months costs a bounded number of statements."""
    spans = split_days([DAY + timedelta(days=90 * visit) for visit in range(40)])
    assert len(spans) == SPANS_READ
    assert spans[-1][1] == DAY + timedelta(days=90 * 39)


def test_no_session_is_no_span() -> None:
    """Nothing is asked for nothing."""
    assert split_days([]) == ()
