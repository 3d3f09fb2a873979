"""Tables, texts and charts of the market page."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import altair as alt
import msgspec
import pytest

from core.records import Candle, EventEffect, MarketEvent, Sparkline, TradingSession, TradingWindow
from core.service.argument_checks import check_bucket
from core.simulation.market_events import PREVIOUS_CLOSE, THRESHOLD_PERCENT
from dashboard.live import describe_age
from dashboard.pages.market import charts, data, tables
from dashboard.pages.market.data import RANGES, Range, SymbolView, find_window
from tests.market import LAST, build_tick


def find_range(name: str) -> Range:
    """Return the range with this name."""
    return next(chosen for chosen in RANGES if chosen.name == name)


def build_candles(count: int) -> list[Candle]:
    """Return daily candles; the first rises, the second falls, and so on."""
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
    """Return an event that affects AAPL and IBM."""
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


def test_a_symbol_has_its_trend_and_spread() -> None:
    """The spread is in basis points of the mid price; missing values are empty; a change of -0.004 is 0.0."""
    trend = Sparkline("AAPL", (LAST,), (Decimal("59.5"),))
    fallen = msgspec.structs.replace(build_tick("AAPL", age_days=0), change_percent_24h=Decimal("-0.004"))
    frame = tables.build_symbols_table(
        [build_tick("AAPL", age_days=0), build_tick("IBM", age_days=0)], [trend]
    )
    assert list(frame["price"]) == [60.0, 200.0]
    assert list(frame["trend"]) == [[59.5], []]
    assert frame["spread"][0] == 10.0
    assert str(tables.build_symbols_table([fallen], [])["change"][0]) == "0.0"
    assert frame[["change", "spread", "volatility"]].iloc[1].isna().all()


def test_movers_are_ordered_by_absolute_change() -> None:
    """Rises and falls are ordered together by size; a symbol without a change comes last."""
    ticks = [build_tick(symbol, age_days=0) for symbol in ("IBM", "AAPL", "FB")]
    links = list(tables.build_movers_table(ticks, [])["symbol"])
    assert links == ["market?symbol=FB", "market?symbol=AAPL", "market?symbol=IBM"]


def test_without_symbols_the_table_is_empty() -> None:
    """Without symbols the table of movers has no rows."""
    assert tables.build_movers_table([], []).empty


def test_an_event_is_shown_in_words() -> None:
    """The table shows an event's type and sentiment in words, and the symbols as a list."""
    [row] = tables.build_events_table([build_event(LAST)]).to_dict("records")
    assert (row["type"], row["sentiment"], row["symbols"]) == ("Price move", "Positive", "AAPL, IBM")
    assert row["impact"] == 6.1
    assert list(row)[:2] == ["time", "impact"], "what a phone shows, however long a title is"


def test_an_impact_has_the_sign_of_its_event() -> None:
    """A negative event has a minus, also if its impact was stored as a positive number; 0 has no sign."""
    impacts = {
        ("NEGATIVE", "5.45"): -5.45,
        ("NEGATIVE", "-5.45"): -5.45,
        ("POSITIVE", "6.1"): 6.1,
        ("NEUTRAL", "-1"): -1.0,
        ("NEGATIVE", "0"): 0.0,
    }
    for (sentiment, stored), shown in impacts.items():
        event = msgspec.structs.replace(build_event(LAST, sentiment), impact_magnitude=Decimal(stored))
        [impact] = tables.build_events_table([event])["impact"]
        assert str(impact) == str(shown)
    unknown = msgspec.structs.replace(build_event(LAST), impact_magnitude=None)
    assert tables.build_events_table([unknown])["impact"].isna().all()


def test_candles_are_summarized() -> None:
    """The summary has the first open, the last close, the highest high and the lowest low."""
    total = tables.summarize_candles(build_candles(4))
    assert (total.open, total.close, total.high, total.low) == (50, 49, 58, 42)
    assert (total.volume, total.change_percent) == (4_000, Decimal(-2))


def test_a_change_is_from_the_last_price_before_the_range() -> None:
    """If the price before the range is known, the change is measured from that price."""
    total = tables.summarize_candles(build_candles(4), before=Decimal(98))
    assert (total.open, total.change_percent, total.high) == (98, Decimal(-50), 58)


def build_view(candles: Sequence[Candle], chosen: Range, *events: MarketEvent) -> SymbolView:
    """Return a view of these candles whose last price has the time of the last candle."""
    tick = msgspec.structs.replace(build_tick("AAPL", age_days=0), timestamp=candles[-1].bucket)
    window = find_window(chosen, tick.timestamp)
    return SymbolView(
        tick=tick, window=window, candles=tuple(candles), before=None, events=events, moved_weeks=0
    )


def test_a_chart_is_described_in_a_sentence() -> None:
    """For people who cannot see the chart, a sentence names its range, candles, prices and events."""
    view = build_view(build_candles(2), find_range("1 week"), build_event(LAST))
    assert tables.describe_view(view, find_range("1 week")) == (
        "AAPL from 24 Feb 2013 00:00 to 2 Mar 2013 21:00, its last price, in 2 candles of 30 minutes: from "
        "$50.00 to $49.00 (-2.00%), highest $56.00, lowest $44.00; 1 event marked."
    )
    day = build_view(build_candles(1), find_range("1 day"))
    assert tables.describe_view(day, find_range("1 day")).startswith("AAPL from 28 Feb 2013 21:00 to 1 Mar")


@pytest.mark.parametrize(
    ("volume", "text"), [(999_999, "999,999"), (379_749_000, "379.7 M"), (2_500_000_000, "2.5 B")]
)
def test_a_volume_is_short(volume: int, text: str) -> None:
    """A volume of a million or more is shortened, as in 379.7 M, so that it fits on a phone."""
    assert tables.format_volume(volume) == text


@pytest.mark.parametrize("chosen", RANGES, ids=lambda chosen: chosen.name)
@pytest.mark.parametrize("count", [1, 3, 300])
def test_candle_charts_are_valid_and_hold_every_candle(count: int, chosen: Range) -> None:
    """The schema accepts both charts; all candles have equal width, and the axis covers the range in UTC."""
    candles = build_candles(count)
    window = find_window(chosen, candles[-1].bucket)
    price = charts.build_candle_chart(candles, [build_event(LAST)], window=window, chosen=chosen)
    volume = charts.build_volume_chart(candles, window=window, chosen=chosen)
    alt.LayerChart.from_dict(price)
    alt.Chart.from_dict(volume)
    for spec in (price, volume):
        rows = spec["data"]["values"]
        assert len(rows) == count
        assert {row["stop"] - row["begin"] for row in rows} == {chosen.width.total_seconds() * 1000}
    scale = volume["encoding"]["x"]["scale"]
    assert scale["type"] == "utc"
    start, end = (datetime.fromtimestamp(edge / 1000, UTC) for edge in scale["domain"])
    assert start <= window.start
    assert end >= candles[-1].bucket + chosen.width
    assert "%Y" in volume["encoding"]["x"]["axis"]["labelExpr"]


def test_a_chart_without_events_has_no_marks() -> None:
    """Without events the candle chart has two layers, the wicks and the bodies."""
    window = find_window(RANGES[0], LAST)
    spec = charts.build_candle_chart(build_candles(3), [], window=window, chosen=RANGES[0])
    assert len(spec["layer"]) == 2


@pytest.mark.parametrize(
    ("after", "place"),
    [(timedelta(hours=-1), 0), (timedelta(0), 0), (timedelta(hours=30), 1), (timedelta(days=9), 2)],
)
def test_an_event_is_marked_above_the_candle_before_it(after: timedelta, place: int) -> None:
    """The mark is above the last candle that began before or at the event; without one, above the first."""
    candles = build_candles(3)
    window, chosen = find_window(RANGES[1], LAST), RANGES[1]
    spec = charts.build_candle_chart(candles, [build_event(LAST + after)], window=window, chosen=chosen)
    [mark] = spec["layer"][2]["data"]["values"]
    assert mark["high"] == candles[place].high
    assert mark["time"] == (LAST + after).timestamp() * 1000


def test_a_mark_shows_its_sentiment() -> None:
    """The mark of an event shows the sentiment by its shape as well as by its colour."""
    events = [build_event(LAST, sentiment) for sentiment in ("POSITIVE", "NEGATIVE", "NEUTRAL")]
    window = find_window(RANGES[0], LAST)
    spec = charts.build_candle_chart(build_candles(1), events, window=window, chosen=RANGES[0])
    rows = spec["layer"][2]["data"]["values"]
    assert [row["shape"] for row in rows] == ["triangle-up", "triangle-down", "diamond"]
    assert len({row["colour"] for row in rows}) == 3


@pytest.mark.parametrize("chosen", RANGES, ids=lambda chosen: chosen.name)
def test_every_range_has_a_few_hundred_candles(chosen: Range) -> None:
    """Every range has 200 to 400 candles, and the width of a candle is the duration of its bucket."""
    window = find_window(chosen, LAST)
    assert 200 <= (window.end - window.start) / chosen.width <= 400
    assert check_bucket(chosen.bucket) == chosen.width


@pytest.mark.parametrize(
    ("name", "latest", "start"),
    [
        ("1 day", "2026-03-09T20:00:00", "2026-03-08T20:00:00.000001"),
        ("1 week", "2026-03-09T20:00:00", "2026-03-03T00:00:00"),
        ("1 week", "2026-03-09T00:00:00", "2026-03-03T00:00:00"),
        ("1 month", "2026-03-09T20:00:00", "2026-02-10T00:00:00"),
        ("1 month", "2026-03-31T20:00:00", "2026-03-01T00:00:00"),
        ("3 months", "2026-01-15T20:00:00", "2025-10-16T00:00:00"),
        ("1 year", "2028-02-29T20:00:00", "2027-03-01T00:00:00"),
        ("1 year", "2026-12-31T23:59:59", "2026-01-01T00:00:00"),
        ("5 years", "2026-03-09T20:00:00", "2021-03-10T00:00:00"),
        ("10 years", "2026-03-09T20:00:00", "2016-03-10T00:00:00"),
    ],
)
def test_a_range_starts_at_midnight_except_one_day(name: str, latest: str, start: str) -> None:
    """The range of 1 day starts 24 hours before the latest price; longer ranges start at midnight UTC."""
    moment = datetime.fromisoformat(latest).replace(tzinfo=UTC)
    window = find_window(find_range(name), moment)
    assert window.start == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert window.end - moment == timedelta(microseconds=1)


def build_effect(*medians: str | None) -> EventEffect:
    """Return an event's effect with one session per median, the first on the day before the event."""
    width = timedelta(hours=1)
    return EventEffect(
        event=build_event(LAST),
        before=TradingWindow(LAST - width, LAST, traders=1, trades=1),
        after=TradingWindow(LAST, LAST + width, traders=20, trades=1_500),
        sessions=tuple(
            TradingSession(
                (LAST + timedelta(days=place - 1)).date(),
                players=40,
                traders=3,
                trades=4,
                median_return=None if median is None else Decimal(median),
            )
            for place, median in enumerate(medians)
        ),
    )


def test_an_effect_is_described_in_a_sentence() -> None:
    """The sentence names each session, with its median return if known; `so far` marks a running session."""
    later = LAST + timedelta(days=1)
    counts = "1 trade of 1 player before, 1,500 trades of 20 players after"
    assert tables.describe_effect(build_effect("0.5", "-0.25", "9"), now=later) == (
        f"{counts}. Players and their median return: 40, +0.50% in the session before;"
        " 40, -0.25% in the session of the event; 40, +9.00% in the session after, so far."
    )
    assert tables.describe_effect(build_effect(None, "1"), now=later) == (
        f"{counts}. Players and their median return: 40 in the session before;"
        " 40, +1.00% in the session of the event."
    )
    none = "No session was held within 7 days."
    assert tables.describe_effect(build_effect(), now=later) == f"{counts}. {none}"
    running = tables.describe_effect(build_effect(), now=LAST + timedelta(minutes=59))
    assert running == f"{counts}, so far. {none}"
    of_today = tables.describe_effect(build_effect("0.5", "-0.25"), now=LAST + timedelta(minutes=90))
    assert of_today.endswith("40, -0.25% in the session of the event, so far.")


def test_an_effect_is_a_table_of_times_and_sessions() -> None:
    """The table has two time windows and three sessions; the running ones are marked `so far`."""
    effect, later = build_effect("0.5", "-0.001", None), LAST + timedelta(days=1)
    frame = tables.build_effect_table(effect, window="1 hour", now=later)
    assert list(frame["when"]) == [
        "1 hour before",
        "1 hour after",
        "Session before",
        "Session of the event",
        "Session after, so far",
    ]
    assert list(frame["session"])[2:] == [date(2013, 2, 28), date(2013, 3, 1), date(2013, 3, 2)]
    running = tables.build_effect_table(effect, window="1 hour", now=LAST + timedelta(minutes=59))
    assert list(running["when"][:2]) == ["1 hour before", "1 hour after, so far"]
    assert list(frame["trades"]) == [1, 1_500, 4, 4, 4]
    assert frame["players"].isna().tolist() == [True, True, False, False, False]
    assert [str(median) for median in frame["median"][2:4]] == ["0.5", "0.0"]
    assert frame["median"].isna().tolist()[4]


def test_a_section_shows_its_age() -> None:
    """A section shows when it was read, its refresh interval, and why the cache is not used."""
    now = datetime(2013, 3, 1, 21, 0, 5, tzinfo=UTC)
    assert describe_age(now, interval=5) == "As of 2013-03-01 21:00:05 UTC · refreshes every 5 s"
    assert describe_age(now, interval=None).endswith("· paused")
    assert describe_age(None, interval=5) == "Refreshes every 5 s"
    assert "the cache is not used (READONLY): values are correct" in describe_age(
        now, interval=5, bypass="READONLY"
    )


def test_moved_history_names_the_real_day() -> None:
    """If prices are moved by 715 weeks, the page shows this number and the real day that became today."""
    now = datetime(2026, 11, 26, tzinfo=UTC)
    assert tables.describe_moved_weeks(715, now) == (
        "Imported days are real trading days, moved by 715 weeks: 26 Nov 2026 stands for 14 Mar 2013."
    )


def test_the_page_names_the_event_threshold() -> None:
    """The page names the threshold and the base price with which the simulation creates market events."""
    text = " ".join(Path(data.__file__).with_name("page.py").read_text(encoding="utf-8").split())
    assert f"more than {THRESHOLD_PERCENT} % away" in text
    assert PREVIOUS_CLOSE in text


def test_a_price_names_its_time() -> None:
    """A price of today shows its time with seconds; a price of another day shows its date too."""
    moment = datetime(2013, 3, 1, 21, 0, 5, tzinfo=UTC)
    assert tables.describe_time(moment, moment + timedelta(hours=1)) == "21:00:05"
    assert tables.describe_time(moment, moment + timedelta(hours=3)) == "21:00, 1 Mar 2013"
