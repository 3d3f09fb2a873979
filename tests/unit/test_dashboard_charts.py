"""Chart specifications: valid Vega-Lite that holds the figures."""

from datetime import date
from decimal import Decimal
from uuid import UUID

import altair as alt
import pandas as pd
import pytest

from dashboard import charts
from dashboard.formats import Unit
from dashboard.frames import Bin, build_history_frame
from tests.game import build_portfolio

BINS = (Bin(low=-1.0, high=0.0, players=3), Bin(low=0.0, high=1.0, players=5))


def build_frame(sessions: int) -> pd.DataFrame:
    """Return a history of this many sessions, oldest first, alternating gain and loss."""
    first = date(2012, 1, 2).toordinal()
    return build_history_frame(
        [
            build_portfolio(UUID(int=1), date.fromordinal(first + n), Decimal(100 * (-1) ** n))
            for n in range(sessions)
        ]
    )


@pytest.mark.parametrize("unit", ["percent", "currency", "count", "number"])
def test_a_histogram_is_valid_and_holds_every_bin(unit: Unit) -> None:
    """The schema accepts it; one row per bin, with the rule at the median."""
    spec = charts.build_histogram(BINS, unit=unit, median=Decimal("0.25"))
    alt.LayerChart.from_dict(spec)
    assert [row["players"] for row in spec["layer"][0]["data"]["values"]] == [3, 5]
    assert spec["layer"][1]["encoding"]["x"]["datum"] == 0.25


@pytest.mark.parametrize("sessions", [1, 2, 90])
def test_the_chart_of_changes_is_valid_and_holds_every_session(sessions: int) -> None:
    """The schema accepts it; one row per session, few labels, the newest among them."""
    frame = build_frame(sessions)
    change = charts.build_change_chart(frame)
    alt.Chart.from_dict(change)
    assert len(change["data"]["values"]) == sessions
    labels = change["encoding"]["x"]["axis"]["values"]
    assert 1 <= len(labels) <= 6
    assert labels[-1] == frame["session"].iloc[-1].isoformat()


@pytest.mark.parametrize("sessions", [1, 2, 3, 4, 6, 12, 14, 90, 250])
def test_labels_end_with_the_newest_and_are_odd(sessions: int) -> None:
    """A narrow chart leaves out every other label from the first on: of an odd number the last stays."""
    days = [day.isoformat() for day in build_frame(sessions)["session"]]
    labels = charts.choose_labels(days, count=6)
    assert labels[-1] == days[-1]
    assert len(labels) <= 6
    assert len(labels) % 2 or len(labels) <= 3


@pytest.mark.parametrize(
    ("most", "top"), [(1, 1), (7, 7), (10, 10), (14, 15), (16, 20), (101, 150), (14_999, 15_000)]
)
def test_a_histogram_ends_above_its_highest_bar(most: int, top: int) -> None:
    """At a round number, whichever of the two distributions has it."""
    low, high = (Bin(0.0, 1.0, 1),), (Bin(0.0, 1.0, most),)
    for bins, before in ((low, high), (high, low)):
        spec = charts.build_histogram(bins, unit="percent", median=Decimal(0), before=before)
        assert spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == [0, top]


def test_a_tooltip_has_readable_figures() -> None:
    """Formatted here, not by the browser."""
    [row] = charts.build_change_chart(build_frame(1))["data"]["values"]
    assert row["session"] == "Mon 2 Jan 2012"
    assert row["money"] == "$10,100.00"
    assert row["moved"] == "+$100.00 (+1.00%)"


def test_green_and_red_mean_gain_and_loss() -> None:
    """Only the sign of the change decides the colour."""
    colour = charts.build_change_chart(build_frame(2))["encoding"]["color"]
    assert colour["condition"] == {"test": "datum.change < 0", "value": charts.LOSS}
    assert colour["value"] == charts.GAIN


def test_the_bin_of_one_count_is_named_by_it() -> None:
    """A tooltip says 3, not 2.5 to 3.5."""
    spec = charts.build_histogram((Bin(low=2.5, high=3.5, players=4),), unit="count", median=Decimal(3))
    assert spec["layer"][0]["data"]["values"][0]["range"] == "3"
