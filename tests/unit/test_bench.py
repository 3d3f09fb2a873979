"""The benchmark's arithmetic and tables; its times are never judged."""

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
from tests.bench.report import make_table, spell_cell, spell_figure


def turns() -> list[Turn]:
    """Three rounds of two contenders; the machine is ten times slower in the second."""
    rounds = ((1.0, 2.0), (10.0, 20.0), (1.0, 3.0))
    return [
        Turn("warm", name, number, {"seconds": seconds, "queries": 0})
        for number, pair in enumerate(rounds)
        for name, seconds in zip(("raw", "ours"), pair, strict=True)
    ]


def test_a_ratio_is_taken_within_a_round() -> None:
    """Each round is compared with the baseline of the same round, so a busy machine changes no ratio."""
    raw, ours = summarise(turns(), baseline="raw")
    assert (raw.contender, raw.medians["seconds"], raw.ratios["seconds"]) == ("raw", 1.0, 1.0)
    assert (ours.contender, ours.medians["seconds"], ours.ratios["seconds"]) == ("ours", 3.0, 2.0)


def test_the_baseline_is_the_quicker_driver_of_each_workload() -> None:
    """The faster of two drivers is the baseline, chosen for each workload separately."""
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


def test_nothing_is_divided_by_nothing() -> None:
    """A figure of 0, and a round without the baseline, give no ratio."""
    [_, ours] = summarise(turns(), baseline="raw")
    assert "queries" not in ours.ratios
    assert divide_rounds({7: {"seconds": 1.0}}, {0: {"seconds": 1.0}}) == []


def test_the_median_is_per_figure() -> None:
    """The median of a figure includes only the rounds that have this figure."""
    assert median_figures([{"a": 1, "b": 5}, {"a": 3}, {"a": 2}]) == {"a": 2, "b": 5}


def test_percentiles_are_between_the_extremes() -> None:
    """The 50th of 0 to 100 is 50, the 99th is 99."""
    values = [float(n) for n in range(101)]
    assert (percentile(values, 50), percentile(values, 99)) == (50, 99)


def test_a_cell_reads_as_a_ratio() -> None:
    """The baseline shows its own figure, the contenders a ratio; counts are shown unchanged."""
    raw, ours = summarise(turns(), baseline="raw")
    assert spell_cell(raw, "seconds", is_baseline=True) == "1.00 (1 s)"
    assert spell_cell(ours, "seconds", is_baseline=False) == "2.00"
    assert spell_cell(ours, "queries", is_baseline=False) == "0"
    made = Summary("warm", "raw", {"seconds": 1}, {"seconds": 1}, made_with="psycopg 3")
    assert spell_cell(made, "seconds", is_baseline=True) == "1.00 (1 s, psycopg 3)"
    assert spell_cell(None, "seconds", is_baseline=False) == "-"
    near = Summary("warm", "ours", {"seconds": 1}, {"seconds": 0.0312})
    assert spell_cell(near, "seconds", is_baseline=False) == "0.031"


def test_figures_have_units() -> None:
    """Microseconds, milliseconds, seconds or a rate."""
    spelled = [spell_figure("seconds", value) for value in (0.000_168, 0.0027, 1.5)]
    assert spelled == ["168 us", "2.7 ms", "1.5 s"]
    assert spell_figure("per_second", 27_950.4) == "27,950/s"


def test_the_table_has_a_row_per_figure_and_a_column_per_contender() -> None:
    """A cell is empty when the contender did not take part in the workload."""
    mixed = Turn("mixed", "raw", 0, {"per_second": 3_677.0, "p50": 0.001, "stale_per_100000": 537.0})
    console = Console(width=150)
    with console.capture() as capture:
        console.print(make_table(summarise([*turns(), mixed], baseline="raw"), baseline="raw"))
    lines = capture.get().splitlines()
    assert lines[0].split() == ["workload", "raw", "ours"]
    assert any("stale reads per 100,000" in line and "537" in line for line in lines)
    assert any("calls/s" in line and "3,677/s" in line for line in lines)


def test_the_document_says_how_it_was_measured() -> None:
    """The document is JSON with the scale beside the figures."""
    document = json.loads(to_document(summarise(turns(), baseline="raw"), scale="small"))
    assert document["scale"] == "small"
    assert document["results"][1]["ratios"] == {"seconds": 2.0}


def test_the_same_seed_chooses_the_same() -> None:
    """Two runs make the same calls."""
    one, two = (Choices(SCALES["small"], 7) for _ in range(2))
    assert one.pick_keys(50) == two.pick_keys(50)
    assert one.make_ticks(5) == two.make_ticks(5)
    assert len(set(one.pick_players(100))) == 100


def test_leaderboards_are_among_the_hottest_keys() -> None:
    """A leaderboard is the most requested key, with a seventh of all calls; most keys are portfolios."""
    keys = Choices(SCALES["small"], 7).pick_keys(20_000)
    share = {limit: keys.count(limit) / len(keys) for limit in HOT_LIMITS.values()}
    assert 0.12 < share[50] < 0.25
    assert sorted(share, key=lambda limit: -share[limit]) == list(HOT_LIMITS.values())
    assert len(set(keys)) > 500


def test_answers_are_compared_by_value() -> None:
    """A mapping of texts and an object of numbers with the same values are equal."""
    summary = Summary("1.50", "raw", {}, {})
    assert describe_rows([summary], "workload", "contender") == describe_rows(
        [{"workload": "1.5", "contender": "raw"}], "workload", "contender"
    )
