"""Tests of the benchmark's arithmetic and tables; they measure no time."""

import json

from rich.console import Console

from tests.bench.data import HOT_LIMITS, SCALES, Choices, describe_rows
from tests.bench.figures import (
    Summary,
    Turn,
    choose_baseline,
    divide_rounds,
    median_figures,
    percentile,
    summarise,
    to_document,
)
from tests.bench.report import format_cell, format_figure, make_table


def make_turns() -> list[Turn]:
    """Return the turns of two contenders in three rounds; both are ten times slower in the second."""
    rounds = ((1.0, 2.0), (10.0, 20.0), (1.0, 3.0))
    return [
        Turn("warm", name, number, {"seconds": seconds, "queries": 0})
        for number, pair in enumerate(rounds)
        for name, seconds in zip(("raw", "ours"), pair, strict=True)
    ]


def test_a_ratio_is_taken_within_a_round() -> None:
    """A ratio is the median of the ratios of each round, so a slow round does not change it."""
    raw, ours = summarise(make_turns(), baseline="raw")
    assert (raw.contender, raw.medians["seconds"], raw.ratios["seconds"]) == ("raw", 1.0, 1.0)
    assert (ours.contender, ours.medians["seconds"], ours.ratios["seconds"]) == ("ours", 3.0, 2.0)


def test_the_baseline_is_the_faster_driver_of_a_workload() -> None:
    """For each workload the faster of two drivers is the baseline."""
    seconds = {"warm": {"two": 2.0, "three": 1.0}, "cold": {"two": 3.0, "three": 4.0}}
    given = [
        Turn(workload, name, number, {"seconds": value})
        for workload, found in seconds.items()
        for name, value in (*found.items(), ("ours", 6.0))
        for number in range(3)
    ]
    kept, quickest = choose_baseline(given, baseline="raw", candidates=("two", "three"))
    assert quickest == {"warm": "three", "cold": "two"}
    summaries = summarise(kept, baseline="raw", made_with=quickest)
    assert {(s.workload, s.contender): s.medians["seconds"] for s in summaries} == {
        ("warm", "raw"): 1.0,
        ("warm", "ours"): 6.0,
        ("cold", "raw"): 3.0,
        ("cold", "ours"): 6.0,
    }
    assert [s.ratios["seconds"] for s in summaries] == [1.0, 6.0, 1.0, 2.0]
    assert [s.made_with for s in summaries] == ["three", "", "two", ""]


def test_a_baseline_of_zero_gives_no_ratio() -> None:
    """A baseline of 0, or a round without the baseline, gives no ratio."""
    [_, ours] = summarise(make_turns(), baseline="raw")
    assert "queries" not in ours.ratios
    assert divide_rounds({7: {"seconds": 1.0}}, {0: {"seconds": 1.0}}) == []


def test_a_median_uses_the_rounds_with_the_figure() -> None:
    """The median of a figure uses only the rounds in which the figure was measured."""
    assert median_figures([{"a": 1, "b": 5}, {"a": 3}, {"a": 2}]) == {"a": 2, "b": 5}


def test_percentiles() -> None:
    """Of the values 0 to 100 the 50th percentile is 50 and the 99th is 99."""
    values = [float(n) for n in range(101)]
    assert (percentile(values, 50), percentile(values, 99)) == (50, 99)


def test_a_cell_shows_a_ratio() -> None:
    """A cell shows the ratio to the baseline; the baseline's cell also shows its time."""
    raw, ours = summarise(make_turns(), baseline="raw")
    assert format_cell(raw, "seconds", is_baseline=True) == "1.00 (1 s)"
    assert format_cell(ours, "seconds", is_baseline=False) == "2.00"
    assert format_cell(ours, "queries", is_baseline=False) == "0"
    made = Summary("warm", "raw", {"seconds": 1}, {"seconds": 1}, made_with="psycopg 3")
    assert format_cell(made, "seconds", is_baseline=True) == "1.00 (1 s, psycopg 3)"
    assert format_cell(None, "seconds", is_baseline=False) == "-"
    near = Summary("warm", "ours", {"seconds": 1}, {"seconds": 0.0312})
    assert format_cell(near, "seconds", is_baseline=False) == "0.031"


def test_figures_have_units() -> None:
    """A time is shown in us, ms or s, and a rate as a number per second."""
    spelled = [format_figure("seconds", value) for value in (0.000_168, 0.0027, 1.5)]
    assert spelled == ["168 us", "2.7 ms", "1.5 s"]
    assert format_figure("per_second", 27_950.4) == "27,950/s"


def test_the_table_has_a_row_per_figure_and_a_column_per_contender() -> None:
    """The table has a column for each contender and a row for each figure of a workload."""
    mixed = Turn("mixed", "raw", 0, {"per_second": 3_677.0, "p50": 0.001, "stale_per_100000": 537.0})
    console = Console(width=150)
    with console.capture() as capture:
        console.print(make_table(summarise([*make_turns(), mixed], baseline="raw"), baseline="raw"))
    lines = capture.get().splitlines()
    assert lines[0].split() == ["workload", "raw", "ours"]
    assert any("stale reads per 100,000" in line and "537" in line for line in lines)
    assert any("calls/s" in line and "3,677/s" in line for line in lines)


def test_the_document_has_scale_and_ratios() -> None:
    """The JSON document has the scale of the benchmark and the ratios."""
    document = json.loads(to_document(summarise(make_turns(), baseline="raw"), scale="small"))
    assert document["scale"] == "small"
    assert document["results"][1]["ratios"] == {"seconds": 2.0}


def test_the_same_seed_makes_the_same_calls() -> None:
    """Two runs with the same seed request the same keys and write the same ticks."""
    one, two = (Choices(SCALES["small"], 7) for _ in range(2))
    assert one.pick_keys(50) == two.pick_keys(50)
    assert one.make_ticks(5) == two.make_ticks(5)
    assert len(set(one.pick_players(100))) == 100


def test_leaderboards_are_among_the_hottest_keys() -> None:
    """One leaderboard gets 12 to 25 % of 20,000 requests, and more than 500 keys are requested."""
    keys = Choices(SCALES["small"], 7).pick_keys(20_000)
    share = {limit: keys.count(limit) / len(keys) for limit in HOT_LIMITS.values()}
    assert 0.12 < share[50] < 0.25
    assert sorted(share, key=lambda limit: -share[limit]) == list(HOT_LIMITS.values())
    assert len(set(keys)) > 500


def test_rows_are_compared_by_value() -> None:
    """Rows as mappings and rows as objects are equal if their numbers are equal."""
    summary = Summary("1.50", "raw", {}, {})
    assert describe_rows([summary], "workload", "contender") == describe_rows(
        [{"workload": "1.5", "contender": "raw"}], "workload", "contender"
    )
