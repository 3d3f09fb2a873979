"""The tables of results.

Owns the format of figures: the ratio to the raw contender and, for the raw contender itself, the figure.
"""

from collections.abc import Sequence

from rich.table import Table

from tests.bench.figures import Summary

# workload -> its figures, each with its label; for any other workload only the time is shown
SHOWN = {
    "mixed": (
        ("per_second", "calls/s"),
        ("p50", "p50"),
        ("p99", "p99"),
        ("stale_per_100000", "stale reads per 100,000"),
        ("keys_left_stale", "keys left stale, %"),
    ),
    "stampede": (("seconds", "time"), ("queries", "queries")),
    "eight writers": (("per_second", "calls/s"), ("p99", "p99")),
}
TIME_ONLY = (("seconds", ""),)
# figures that are shown as values, because a baseline of 0 has no ratio
ABSOLUTE = ("stale_per_100000", "keys_left_stale", "queries")


def make_table(summaries: Sequence[Summary], *, baseline: str) -> Table:
    """Return a row per figure and a column per contender."""
    contenders = list(dict.fromkeys(summary.contender for summary in summaries))
    table = Table("workload", *contenders, box=None)
    for workload in dict.fromkeys(summary.workload for summary in summaries):
        by_name = {summary.contender: summary for summary in summaries if summary.workload == workload}
        for figure, label in SHOWN.get(workload, TIME_ONLY):
            name = f"{workload}, {label}" if label else workload
            cells = (spell_cell(by_name.get(c), figure, is_baseline=c == baseline) for c in contenders)
            table.add_row(name, *cells)
    return table


def spell_cell(summary: Summary | None, figure: str, *, is_baseline: bool) -> str:
    """Format one figure of one contender."""
    if summary is None or figure not in summary.medians:
        return "-"
    if figure in ABSOLUTE:
        return f"{summary.medians[figure]:.3g}"
    if is_baseline or figure not in summary.ratios:
        made_with = f", {summary.made_with}" if summary.made_with else ""
        return f"1.00 ({spell_figure(figure, summary.medians[figure])}{made_with})"
    ratio = summary.ratios[figure]
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def spell_figure(figure: str, value: float) -> str:
    """Format a rate or a time in a suitable unit."""
    if figure == "per_second":
        return f"{value:,.0f}/s"
    if value < 0.001:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
