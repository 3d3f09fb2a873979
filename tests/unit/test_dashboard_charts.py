"""Chart specifications that several pages use: they are valid Vega-Lite and contain the given values."""

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import altair as alt
import pytest

from core.records import MarketEvent
from dashboard import charts
from dashboard.charts import Bin
from dashboard.formats import Unit

BINS = (Bin(low=-1.0, high=0.0, players=3), Bin(low=0.0, high=1.0, players=5))


@pytest.mark.parametrize("unit", ["percent", "currency", "count", "number"])
def test_a_histogram_is_valid_and_holds_every_bin(unit: Unit) -> None:
    """A histogram has one row per bin and a rule at the median; the Vega-Lite schema accepts it."""
    spec = charts.build_histogram(BINS, unit=unit, median=Decimal("0.25"))
    alt.LayerChart.from_dict(spec)
    assert [row["players"] for row in spec["layer"][0]["data"]["values"]] == [3, 5]
    assert spec["layer"][1]["encoding"]["x"]["datum"] == 0.25


@pytest.mark.parametrize("sessions", [1, 2, 3, 4, 6, 12, 14, 90, 250])
def test_the_newest_session_keeps_its_label(sessions: int) -> None:
    """More than three labels are an odd number: a narrow chart hides every second label, but not the last."""
    first = date(2012, 1, 2).toordinal()
    days = [date.fromordinal(first + n).isoformat() for n in range(sessions)]
    labels = charts.choose_labels(days, count=6)
    assert labels[-1] == days[-1]
    assert len(labels) <= 6
    assert len(labels) % 2 or len(labels) <= 3


@pytest.mark.parametrize(
    ("most", "top"), [(1, 1), (7, 7), (10, 10), (14, 15), (16, 20), (101, 150), (14_999, 15_000)]
)
def test_a_histogram_axis_ends_at_a_round_number(most: int, top: int) -> None:
    """The y axis ends at a round number that is at least the highest bar of `bins` and `before`."""
    low, high = (Bin(0.0, 1.0, 1),), (Bin(0.0, 1.0, most),)
    for bins, before in ((low, high), (high, low)):
        spec = charts.build_histogram(bins, unit="percent", median=Decimal(0), before=before)
        assert spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == [0, top]


def test_the_bin_of_one_count_shows_the_count() -> None:
    """The tooltip of the bin for the count 3 shows 3, not 2.5 to 3.5."""
    spec = charts.build_histogram((Bin(low=2.5, high=3.5, players=4),), unit="count", median=Decimal(3))
    assert spec["layer"][0]["data"]["values"][0]["range"] == "3"


def test_every_score_is_in_one_bin() -> None:
    """The bins of 200 scores count 200 players and reach from the worst to the best score."""
    bins = charts.bin_values([Decimal(f"{score / 7:.2f}") for score in range(200, 0, -1)])
    assert sum(item.players for item in bins) == 200
    assert bins[0].low == pytest.approx(0.14)
    assert bins[-1].high == pytest.approx(28.57)


def test_small_whole_scores_get_a_bin_each() -> None:
    """If all scores are small whole numbers, each number has a bin of its own."""
    bins = charts.bin_values([Decimal(score) for score in ("4", "2", "2", "1", "0")])
    assert [(item.low, item.high, item.players) for item in bins] == [
        (-0.5, 0.5, 1),
        (0.5, 1.5, 1),
        (1.5, 2.5, 2),
        (2.5, 3.5, 0),
        (3.5, 4.5, 1),
    ]


@pytest.mark.parametrize("scores", [[], ["1"], ["2", "2", "2", "2", "2"], ["4", "3", "2", "1"]])
def test_too_few_or_equal_scores_have_no_bins(scores: list[str]) -> None:
    """Fewer than five scores, or scores that are all equal, have no bins."""
    assert charts.bin_values([Decimal(score) for score in scores]) == ()


def test_enclose_data_moves_the_data_into_a_layer() -> None:
    """Data, mark and encoding move into a layer; height and padding stay at the top level."""
    spec: charts.Spec = {
        "data": {"values": [{"a": 1}]},
        "height": 110,
        "padding": {"top": 8},
        "mark": {"type": "bar"},
        "encoding": {"x": {"field": "a", "type": "quantitative"}},
    }
    enclosed = charts.enclose_data(spec)
    assert enclosed == {
        "height": 110,
        "padding": {"top": 8},
        "layer": [{name: spec[name] for name in ("data", "mark", "encoding")}],
    }


def build_event(number: int, day: int, sentiment: str) -> MarketEvent:
    """Return a market event at 23:59 UTC on this day of March 2013."""
    return MarketEvent(
        id=UUID(int=number),
        type="PRICE_MOVE",
        title=f"Event {number}",
        description=None,
        affected_symbols=("FB",),
        impact_magnitude=None,
        sentiment=sentiment,
        created_at=datetime(2013, 3, day, 23, 59, tzinfo=UTC),
    )


def test_events_are_marked_on_their_sessions() -> None:
    """The events of a session share one mark, which is a diamond if their sentiments differ."""
    days = ["2013-03-01", "2013-03-04", "2013-03-05"]
    events = [
        build_event(1, 1, "NEGATIVE"),
        build_event(2, 4, "POSITIVE"),
        *(build_event(number, 5, ("POSITIVE", "NEGATIVE")[number % 2]) for number in range(3, 8)),
        build_event(9, 2, "POSITIVE"),
    ]
    [layer] = charts.build_event_marks(events, days)
    line = {"mark": "line", "encoding": {"x": charts.build_day_axis(days)}}
    alt.LayerChart.from_dict({"data": {"values": [{"day": day} for day in days]}, "layer": [line, layer]})
    rows = layer["data"]["values"]
    assert [(row["day"], row["shape"]) for row in rows] == [
        ("2013-03-01", "triangle-down"),
        ("2013-03-04", "triangle-up"),
        ("2013-03-05", "diamond"),
    ]
    assert rows[0]["events"] == "Event 1"
    assert rows[2]["events"] == "Event 3; Event 4; Event 5; 2 others"


def test_without_events_or_days_there_is_no_mark_layer() -> None:
    """Without events, or without days on the axis, the chart has no layer of event marks."""
    assert charts.build_event_marks([], ["2013-03-01"]) == []
    assert charts.build_event_marks([build_event(1, 1, "NEUTRAL")], []) == []
