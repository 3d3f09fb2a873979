"""Tables, sentences and charts of the market."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import altair as alt
import msgspec
import pytest

from core.records import Candle, MarketEvent, Sparkline
from dashboard.live import describe_age
from dashboard.pages.market import charts, tables
from dashboard.pages.market.data import RANGES, split_periods
from tests.market import LAST, build_tick


def build_candles(count: int) -> list[Candle]:
    """Return daily candles of which the first rises and every second falls."""
    return [
        Candle(
            symbol="AAPL",
            bucket=LAST + timedelta(days=n),
            open=Decimal(50),
            high=Decimal(55 + n),
            low=Decimal(45 - n),
            close=Decimal(51 if n % 2 == 0 else 49),
            volume=1_000,
            ticks=1,
        )
        for n in range(count)
    ]


def build_event(created_at: datetime, sentiment: str = "POSITIVE") -> MarketEvent:
    """Return an event of two symbols."""
    return MarketEvent(
        id=UUID(int=1),
        type="PRICE_MOVE",
        title="AAPL rose",
        description=None,
        affected_symbols=("AAPL", "IBM"),
        impact_magnitude=Decimal("6.1"),
        sentiment=sentiment,
        created_at=created_at,
    )


def test_a_symbol_has_its_course_and_spread() -> None:
    """The spread is in basis points of the middle; what is not quoted is empty, a tiny loss is no -0."""
    course = Sparkline("AAPL", (LAST,), (Decimal("59.5"),))
    fallen = msgspec.structs.replace(build_tick("AAPL", age_days=0), change_percent_24h=Decimal("-0.004"))
    frame = tables.build_symbols_table(
        [build_tick("AAPL", age_days=0), build_tick("IBM", age_days=0)], [course]
    )
    assert list(frame["price"]) == [60.0, 200.0]
    assert list(frame["trend"]) == [[59.5], []]
    assert frame["spread"][0] == 10.0
    assert str(tables.build_symbols_table([fallen], [])["change"][0]) == "0.0"
    assert frame[["change", "spread", "volatility"]].iloc[1].isna().all()


def test_movers_are_ordered_by_distance() -> None:
    """A fall counts as much as a rise; who has no change comes last."""
    ticks = [build_tick(symbol, age_days=0) for symbol in ("IBM", "AAPL", "FB")]
    links = list(tables.build_movers_table(ticks, [])["symbol"])
    assert links == ["market?symbol=FB", "market?symbol=AAPL", "market?symbol=IBM"]


def test_no_symbols_are_an_empty_frame() -> None:
    """The columns are there without a row."""
    assert tables.build_movers_table([], []).empty


def test_an_event_is_readable() -> None:
    """Keys become words, symbols a list."""
    [row] = tables.build_events_table([build_event(LAST)]).to_dict("records")
    assert (row["type"], row["sentiment"], row["symbols"]) == ("Price move", "Positive", "AAPL, IBM")
    assert row["impact"] == 6.1


def test_candles_are_summed_up() -> None:
    """From the first open to the last close, with the extremes between."""
    total = tables.summarize_candles(build_candles(4))
    assert (total.open, total.close, total.high, total.low) == (50, 49, 58, 42)
    assert (total.volume, total.change_percent) == (4_000, Decimal(-2))


def test_a_chart_is_described_in_a_sentence() -> None:
    """Everything that the chart shows, for who cannot see it."""
    text = tables.describe_candles("AAPL", build_candles(2), width="1 day", events=1)
    assert text == (
        "AAPL from 1 Mar 2013 21:00 to 2 Mar 2013 21:00 in 2 candles of 1 day: from $50.00 to "
        "$49.00 (-2.00%), at most $56.00, at least $44.00; 1 event marked."
    )


@pytest.mark.parametrize(
    ("volume", "text"), [(999_999, "999,999"), (379_749_000, "379.7 M"), (2_500_000_000, "2.5 B")]
)
def test_a_volume_is_short(volume: int, text: str) -> None:
    """It fits on a phone."""
    assert tables.format_volume(volume) == text


@pytest.mark.parametrize("count", [1, 3, 300])
def test_candle_charts_are_valid_and_hold_every_candle(count: int) -> None:
    """The schema accepts both; few labels, in UTC."""
    candles = build_candles(count)
    price = charts.build_candle_chart(candles, [build_event(LAST)], labels="%-d %b")
    volume = charts.build_volume_chart(candles, labels="%-d %b")
    alt.LayerChart.from_dict(price)
    alt.Chart.from_dict(volume)
    for spec in (price, volume):
        assert len(spec["data"]["values"]) == count
    axis = volume["encoding"]["x"]["axis"]
    assert 1 <= len(axis["values"]) <= 5
    assert axis["labelExpr"].startswith("utcFormat(")


def test_a_chart_without_events_has_no_marks() -> None:
    """Only wicks and bodies."""
    assert len(charts.build_candle_chart(build_candles(3), [], labels="%b")["layer"]) == 2


@pytest.mark.parametrize(
    ("after", "place"),
    [(timedelta(hours=-1), 0), (timedelta(0), 0), (timedelta(hours=30), 1), (timedelta(days=9), 2)],
)
def test_an_event_marks_the_candle_it_happened_in(after: timedelta, place: int) -> None:
    """The last candle that had begun; the first for what came before it."""
    candles = build_candles(3)
    spec = charts.build_candle_chart(candles, [build_event(LAST + after)], labels="%b")
    [mark] = spec["layer"][2]["data"]["values"]
    assert mark["bucket"] == candles[place].bucket.isoformat()


def test_a_mark_shows_its_sentiment() -> None:
    """By shape as well as by colour."""
    events = [build_event(LAST, sentiment) for sentiment in ("POSITIVE", "NEGATIVE", "NEUTRAL")]
    spec = charts.build_candle_chart(build_candles(1), events, labels="%b")
    rows = spec["layer"][2]["data"]["values"]
    assert [row["shape"] for row in rows] == ["triangle-up", "triangle-down", "diamond"]
    assert len({row["colour"] for row in rows}) == 3


def test_every_range_has_a_few_hundred_candles() -> None:
    """However long it is."""
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    for item in RANGES:
        width = timedelta(**{units[item.bucket[-1]]: int(item.bucket[:-1])})
        assert 200 <= item.steps * item.step / width <= 400, item.name


def test_a_range_leaves_out_where_there_are_no_prices() -> None:
    """A weekend does not part it, years do; the steps' own prices are all inside."""
    day = timedelta(days=1)
    times = [LAST - 4000 * day, LAST - 3999 * day, LAST - 3 * day, LAST]
    old, new = split_periods(times, step=day)
    assert (old.start, new.start) == (LAST - 4001 * day, LAST - 4 * day)
    assert old.end - times[1] == new.end - LAST == timedelta(microseconds=1)
    assert split_periods([], step=day) == ()


def test_a_range_in_pieces_is_not_read_without_end() -> None:
    """The newest pieces are."""
    day = timedelta(days=1)
    periods = split_periods([LAST - 100 * n * day for n in reversed(range(50))], step=day)
    assert len(periods) == 12
    assert periods[-1].end > LAST


def test_a_part_says_how_old_it_is() -> None:
    """When it was read, when again, and whether the database answered."""
    now = datetime(2013, 3, 1, 21, 0, 5, tzinfo=UTC)
    assert describe_age(now, interval=5, stale=None) == "As of 2013-03-01 21:00:05 UTC · refreshes every 5 s"
    assert describe_age(now, interval=None, stale=None).endswith("· paused")
    assert "last known values, 42 s old" in describe_age(now, interval=5, stale=42.0)
    assert "the cache is not used (READONLY): values are correct" in describe_age(
        now, interval=5, stale=None, bypass="READONLY"
    )


def test_times_of_several_days_are_labelled_with_their_day() -> None:
    """A range of hours with prices may reach over years; its times would go back and forth."""
    assert charts.choose_time_format(build_candles(3), "%H:%M") == "%-d %b %H:%M"
    assert charts.choose_time_format(build_candles(2), "%H:%M") == "%H:%M"
    assert charts.choose_time_format(build_candles(3), "%b %Y") == "%b %Y"
    assert charts.choose_time_format([], "%H:%M") == "%H:%M"


def test_moved_history_says_what_its_days_stand_for() -> None:
    """In weeks, and as the month that is shown now."""
    now = datetime(2026, 11, 26, tzinfo=UTC)
    assert tables.describe_moved_weeks(715, now) == (
        "Imported days are real trading days, moved by 715 weeks: November 2026 stands for March 2013."
    )
