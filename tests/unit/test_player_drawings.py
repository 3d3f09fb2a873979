"""A player's charts that are kept: shared for the same figures, anew for others."""

import altair as alt
import pytest

from dashboard import charts
from dashboard import player_drawings as drawings
from dashboard.charts import Spec
from dashboard.player_frames import build_curve
from tests.unit.test_dashboard_frames import build_history

GAINS = ["300", "-500", "100", "20", "30", "40"]


def draw_all(gains: list[str]) -> list[Spec]:
    """Draw the charts of a player with these day changes, newest first."""
    history = tuple(build_history(gains))
    curve = build_curve("alice", history, since=history[-1].session_date)
    spread = drawings.draw_spread(history)
    assert spread is not None
    return [
        drawings.draw_equity((curve,), (0,)),
        drawings.draw_drawdown(curve),
        drawings.draw_changes(history),
        drawings.draw_holdings(history),
        spread.chart,
    ]


def test_the_same_figures_are_drawn_once() -> None:
    """Read twice, they are other objects of the same values."""
    for first, second in zip(draw_all(GAINS), draw_all(GAINS), strict=True):
        assert first is second


def test_other_figures_are_drawn_anew() -> None:
    """One day change is enough, in whichever chart."""
    for first, second in zip(draw_all(GAINS), draw_all(["300.01", *GAINS[1:]]), strict=True):
        assert first != second


def test_a_chart_with_its_data_inside_says_the_same() -> None:
    """Rows, marks and encoding move into the layer, size and padding stay; Vega-Lite accepts it."""
    spec: Spec = {
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


@pytest.mark.parametrize("number", range(5))
def test_every_chart_is_vega_lite(number: int) -> None:
    """As its schema has it, without data at the top."""
    spec = draw_all(GAINS)[number]
    assert "data" not in spec
    alt.LayerChart.from_dict(spec)


def test_the_table_is_sent_as_it_is() -> None:
    """Its columns have the types that the page's formats expect."""
    table = drawings.build_sessions_table(tuple(build_history(GAINS)))
    types = {field.name: str(field.type) for field in table.schema}
    assert types.pop("session") == "date32[day]"
    assert set(types.values()) == {"double"}
    assert table.column("change").to_pylist()[:2] == [300.0, -500.0]
