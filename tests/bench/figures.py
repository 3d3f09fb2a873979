"""The measured figures, their medians and their ratios.

A ratio compares two contenders in the same round, because other load on the machine is then about the same.
The result is the median of these ratios.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

QUANTILES = 100


class Turn(msgspec.Struct, frozen=True):
    """The figures of one contender on one workload in one round; `seconds` is always present."""

    workload: str
    contender: str
    round: int
    figures: Mapping[str, float]


class Summary(msgspec.Struct, frozen=True):
    """The medians of one contender on one workload, and the ratios to the figures of the baseline."""

    workload: str
    contender: str
    medians: Mapping[str, float]
    ratios: Mapping[str, float]
    made_with: str = ""
    """The driver of the baseline: of two drivers, the faster one on this workload."""


def choose_baseline(
    turns: Sequence[Turn], *, baseline: str, candidates: Sequence[str]
) -> tuple[list[Turn], dict[str, str]]:
    """Return the turns with one baseline, and the fastest candidate of each workload.

    On each workload, the turns of the fastest candidate get the name of the baseline. The turns of the other
    candidates are left out.
    """
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in turns:
        if turn.contender in candidates:
            of_workload = seconds.setdefault(turn.workload, {})
            of_workload.setdefault(turn.contender, []).append(turn.figures["seconds"])
    fastest = {
        workload: min((statistics.median(values), name) for name, values in found.items())[1]
        for workload, found in seconds.items()
    }
    kept = [
        msgspec.structs.replace(turn, contender=baseline) if turn.contender in candidates else turn
        for turn in turns
        if turn.contender not in candidates or turn.contender == fastest[turn.workload]
    ]
    return kept, fastest


def summarise(
    turns: Iterable[Turn], *, baseline: str, made_with: Mapping[str, str] = MappingProxyType({})
) -> list[Summary]:
    """Return one summary for each workload and contender, in the order of their first turns."""
    by_pair: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for turn in turns:
        by_pair.setdefault((turn.workload, turn.contender), {})[turn.round] = turn.figures
    return [
        Summary(
            workload,
            contender,
            medians=median_figures(rounds.values()),
            ratios=median_figures(divide_rounds(rounds, by_pair.get((workload, baseline), {}))),
            made_with=made_with.get(workload, "") if contender == baseline else "",
        )
        for (workload, contender), rounds in by_pair.items()
    ]


def median_figures(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds that have this figure."""
    values: dict[str, list[float]] = {}
    for figures in rounds:
        for name, value in figures.items():
            values.setdefault(name, []).append(value)
    return {name: statistics.median(found) for name, found in values.items()}


def divide_rounds(
    rounds: Mapping[int, Mapping[str, float]], baseline: Mapping[int, Mapping[str, float]]
) -> list[dict[str, float]]:
    """Divide each figure by that of the baseline in the same round; omit a figure whose baseline is 0."""
    return [
        {
            name: value / baseline[number][name]
            for name, value in figures.items()
            if baseline[number].get(name)
        }
        for number, figures in rounds.items()
        if number in baseline
    ]


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Return the value below which `percent` % of the values lie."""
    return statistics.quantiles(seconds, n=QUANTILES, method="inclusive")[percent - 1]


def to_document(summaries: Sequence[Summary], **about: Any) -> bytes:
    """Return the result file as JSON: `about` (how it was measured), then every summary."""
    return msgspec.json.format(msgspec.json.encode({**about, "results": summaries}), indent=2) + b"\n"
