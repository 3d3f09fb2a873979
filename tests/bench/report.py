"""The table of results.

Owns the format of the figures: for the baseline its figure, for every other contender the ratio to the
baseline.
"""

from collections.abc import Sequence

from rich.table import Table

from tests.bench.figures import Summary

# workload -> the figures in the table, with labels; for all other workloads the table has only the time
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
# figures that are shown without a ratio, because the figure of the baseline can be 0
ABSOLUTE = ("stale_per_100000", "keys_left_stale", "queries")


def make_table(summaries: Sequence[Summary], *, baseline: str) -> Table:
    """Return a table with one row per figure and one column per contender."""
    contenders = list(dict.fromkeys(summary.contender for summary in summaries))
    table = Table("workload", *contenders, box=None)
    for workload in dict.fromkeys(summary.workload for summary in summaries):
        by_name = {summary.contender: summary for summary in summaries if summary.workload == workload}
        for figure, label in SHOWN.get(workload, TIME_ONLY):
            name = f"{workload}, {label}" if label else workload
            cells = (format_cell(by_name.get(c), figure, is_baseline=c == baseline) for c in contenders)
            table.add_row(name, *cells)
    return table


def format_cell(summary: Summary | None, figure: str, *, is_baseline: bool) -> str:
    """Return the text of one table cell: one figure of one contender."""
    if summary is None or figure not in summary.medians:
        return "-"
    if figure in ABSOLUTE:
        return f"{summary.medians[figure]:.3g}"
    if is_baseline or figure not in summary.ratios:
        made_with = f", {summary.made_with}" if summary.made_with else ""
        return f"1.00 ({format_figure(figure, summary.medians[figure])}{made_with})"
    ratio = summary.ratios[figure]
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def format_figure(figure: str, value: float) -> str:
    """Return a rate or a time as a text with its unit."""
    if figure == "per_second":
        return f"{value:,.0f}/s"
    if value < 0.001:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
