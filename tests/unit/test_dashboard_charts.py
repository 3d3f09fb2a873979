"""Chart specifications: valid Vega-Lite that holds the figures."""

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
    """The schema accepts it; one row per bin, with the rule at the median."""
    spec = charts.build_histogram(BINS, unit=unit, median=Decimal("0.25"))
    alt.LayerChart.from_dict(spec)
    assert [row["players"] for row in spec["layer"][0]["data"]["values"]] == [3, 5]
    assert spec["layer"][1]["encoding"]["x"]["datum"] == 0.25


@pytest.mark.parametrize("sessions", [1, 2, 3, 4, 6, 12, 14, 90, 250])
def test_labels_end_with_the_newest_and_are_odd(sessions: int) -> None:
    """A narrow chart hides every second label, so with an odd number the newest label stays."""
    first = date(2012, 1, 2).toordinal()
    days = [date.fromordinal(first + n).isoformat() for n in range(sessions)]
    labels = charts.choose_labels(days, count=6)
    assert labels[-1] == days[-1]
    assert len(labels) <= 6
    assert len(labels) % 2 or len(labels) <= 3


@pytest.mark.parametrize(
    ("most", "top"), [(1, 1), (7, 7), (10, 10), (14, 15), (16, 20), (101, 150), (14_999, 15_000)]
)
def test_a_histogram_ends_above_its_highest_bar(most: int, top: int) -> None:
    """The axis ends at a round number above the highest bar of both distributions."""
    low, high = (Bin(0.0, 1.0, 1),), (Bin(0.0, 1.0, most),)
    for bins, before in ((low, high), (high, low)):
        spec = charts.build_histogram(bins, unit="percent", median=Decimal(0), before=before)
        assert spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == [0, top]


def test_the_bin_of_one_count_is_named_by_it() -> None:
    """The tooltip of a bin for the count 3 says 3, not 2.5 to 3.5."""
    spec = charts.build_histogram((Bin(low=2.5, high=3.5, players=4),), unit="count", median=Decimal(3))
    assert spec["layer"][0]["data"]["values"][0]["range"] == "3"


def test_every_score_is_in_one_bin() -> None:
    """The bins of a distribution hold all players, the best and worst included."""
    bins = charts.bin_values([Decimal(f"{score / 7:.2f}") for score in range(200, 0, -1)])
    assert sum(item.players for item in bins) == 200
    assert bins[0].low == pytest.approx(0.14)
    assert bins[-1].high == pytest.approx(28.57)


def test_small_whole_scores_get_a_bin_each() -> None:
    """Counts such as finished quests are not cut at odd places."""
    bins = charts.bin_values([Decimal(score) for score in ("4", "2", "2", "1", "0")])
    assert [(item.low, item.high, item.players) for item in bins] == [
        (-0.5, 0.5, 1),
        (0.5, 1.5, 1),
        (1.5, 2.5, 2),
        (2.5, 3.5, 0),
        (3.5, 4.5, 1),
    ]


@pytest.mark.parametrize("scores", [[], ["1"], ["2", "2", "2", "2", "2"], ["4", "3", "2", "1"]])
def test_no_distribution_without_a_spread(scores: list[str]) -> None:
    """There is no distribution for too few scores, or when all are equal."""
    assert charts.bin_values([Decimal(score) for score in scores]) == ()


def test_a_chart_with_its_data_inside_says_the_same() -> None:
    """Rows, marks and encoding move into the layer; size and padding stay outside."""
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
    """Return an event of a day of March 2013."""
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


def test_events_are_marked_on_the_sessions_they_happened_in() -> None:
    """Each day has one mark, coloured if all its events agree; events outside the axis have none."""
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


def test_days_without_events_have_no_layer_of_marks() -> None:
    """A chart without days has no layer of marks either."""
    assert charts.build_event_marks([], ["2013-03-01"]) == []
    assert charts.build_event_marks([build_event(1, 1, "NEUTRAL")], []) == []
