"""The sums, tables and texts of the Quests page. Pure functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import sqrt
from typing import Any, TypeVar

import msgspec
import pandas as pd

from core.records import (
    CompletionTime,
    PlayerQuest,
    Quest,
    QuestOutcome,
    QuestReturn,
    QuestTotals,
    StuckQuest,
    StuckQuests,
)
from core.simulation.quests import ENDLESS_TYPES, INSTRUCTIONS
from dashboard.formats import (
    build_player_link,
    escape_markdown,
    format_amount,
    format_count,
    format_day,
    format_duration,
    format_key,
    format_points,
    format_quantity,
    format_reward,
    format_share,
    format_time_left,
    measure_share,
)

T = TypeVar("T")

MIN_ENDED = 10
"""A quest type is named best or worst only if it has at least this many ended quests.

With fewer, a single quest would change the rate by more than 10 percentage points.
"""

MIN_SESSIONS = 100
"""A comparison needs at least this many sessions with a quest of the type, and as many sessions without one.

With fewer, a single session would change the share by more than one percentage point.
"""

MIN_DIFFERENCE = Decimal(1)
"""In percentage points. A smaller difference counts as none, even if it was measured over many sessions."""

CHANCE_ERRORS = 1.96
"""A difference of fewer standard errors counts as chance.

If there is no real difference, chance alone exceeds this limit in 5 % of comparisons.
"""

MORE_OFTEN, LESS_OFTEN = "more often", "less often"
NO_DIFFERENCE, TOO_FEW = "no visible difference", "too few sessions"

STUCK_REASONS = {"is_untouched": "no progress", "is_behind": "behind", "is_unseen": "player not seen"}
"""The reasons why a quest is stuck: the field of `StuckQuest` and the text, in the order on the page."""


STEPS = ("Completed", "At least half", "Less than half", "Not started")
"""Steps of progress that an ended quest can have reached, best first.

Each ended quest is in exactly one step.
"""


class Progress(msgspec.Struct, frozen=True):
    """How many quests of a type have ended, and how many of these were started, half done and completed.

    A completed quest also counts as half done and started, and a half done quest as started.
    """

    type: str
    ended: int
    started: int
    halfway: int
    completed: int

    @property
    def rate(self) -> Decimal:
        """The share of ended quests that were completed, from 0 to 1. `ended` must not be 0."""
        return Decimal(self.completed) / self.ended

    def count_steps(self) -> tuple[int, int, int, int]:
        """Return the number of quests in each of STEPS. The sum is `ended`."""
        return (
            self.completed,
            self.halfway - self.completed,
            self.started - self.halfway,
            self.ended - self.started,
        )


class Running(msgspec.Struct, frozen=True):
    """The number of running quests, and the number of those that expire soon."""

    quests: int
    expiring: int


def select_type(rows: Iterable[Any], quest_type: str | None) -> list[Any]:
    """Return the rows of one quest type; None returns all rows."""
    return [row for row in rows if quest_type in (None, row.type)]


def select_limited(rows: Iterable[Any]) -> list[Any]:
    """Return the rows of quest types with a deadline. Quests of other types end only by completion."""
    return [row for row in rows if row.type not in ENDLESS_TYPES]


def add_progress(outcomes: Iterable[QuestOutcome], name: str = "") -> Progress:
    """Return the sum of all outcomes, which may be of several quest types.

    `name` becomes the `type` of the result. It stays empty if the caller needs only the numbers.
    """
    rows = list(outcomes)
    return Progress(
        type=name,
        ended=sum(row.ended for row in rows),
        started=sum(row.started for row in rows),
        halfway=sum(row.halfway for row in rows),
        completed=sum(row.completed for row in rows),
    )


def list_progress(outcomes: Iterable[QuestOutcome]) -> tuple[Progress, ...]:
    """Return the progress of each quest type with a deadline. The type with most ended quests comes first."""
    groups = _group(select_limited(outcomes), lambda row: row.type)
    progress = [add_progress(rows, quest_type) for quest_type, rows in groups.items()]
    return tuple(sorted(progress, key=lambda item: (-item.ended, item.type)))


def sum_running(totals: Iterable[QuestTotals]) -> Running:
    """Return the running quests summed over all types."""
    rows = list(totals)
    return Running(sum(row.active for row in rows), sum(row.expiring for row in rows))


def _group(rows: Iterable[T], get_key: Callable[[T], Any]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = {}
    for row in rows:
        groups.setdefault(get_key(row), []).append(row)
    return groups


def format_counted_share(part: int, whole: int) -> str:
    """Write a share with its counts: `80% (12 of 15)`; empty if `whole` is 0."""
    return f"{format_share(part, whole)} ({format_count(part)} of {format_count(whole)})" if whole else ""


def describe_duration(duration: timedelta | None) -> str:
    """Write a duration in its two largest units, such as `2 h 40 min`; `-` for None."""
    return "-" if duration is None else format_duration(duration.total_seconds())


def describe_rates(progress: Sequence[Progress]) -> str:
    """Return a sentence on the quest types that are completed most and least often, as Markdown."""
    rated = sorted(
        (item for item in progress if item.ended >= MIN_ENDED), key=lambda item: (-item.rate, item.type)
    )
    if not rated:
        few = f"Fewer than {MIN_ENDED} quests of each type" if progress else "No quest"
        return f"**{few} with a deadline ended in this window**: no type is best or worst."
    best, worst = rated[0], rated[-1]
    if len(rated) == 1:
        return (
            f"**{_name_type(best)}**: {_describe_rate(best)} were completed. No other type with a deadline "
            f"has {MIN_ENDED} ended quests in this window."
        )
    if best.rate == worst.rate:
        share = format_share(best.completed, best.ended, places=1)
        return f"**All types with a deadline are completed equally often**: {share} of the ended quests."
    return (
        f"Completed most often: **{_name_type(best)}**, {_describe_rate(best)}; least often: "
        f"**{_name_type(worst)}**, {_describe_rate(worst)}."
    )


def describe_endless(
    outcomes: Iterable[QuestOutcome], totals: Iterable[QuestTotals], *, since: date | None
) -> str:
    """Return a sentence for each type without a deadline, as Markdown: its completed and running quests."""
    ended = _group((row for row in outcomes if row.type in ENDLESS_TYPES), lambda row: row.type)
    running = _group((row for row in totals if row.type in ENDLESS_TYPES), lambda row: row.type)
    texts = []
    for key in sorted({*ended, *running}):
        done = add_progress(ended.get(key, ()), key)
        first = since or min((row.week for row in ended.get(key, ()) if row.week), default=None)
        texts.append(
            f"{_name_type(done)}: {format_count(done.completed)} completed"
            f"{f' since {format_day(first)}' if first else ''}, "
            f"{format_count(sum_running(running.get(key, ())).quests)} running. No deadline, so these quests "
            "end only by completion and are in no rate."
        )
    return " ".join(texts)


def describe_types(totals: Iterable[QuestTotals]) -> str:
    """Return one line for each quest type of the game, as Markdown: what the player has to do."""
    shown = {row.type for row in totals}
    return "  \n".join(f"**{format_key(key)}**: {text}" for key, text in INSTRUCTIONS.items() if key in shown)


def _name_type(item: Progress) -> str:
    return escape_markdown(format_key(item.type))


def _describe_rate(item: Progress) -> str:
    return format_counted_share(item.completed, item.ended)


def build_progress_table(progress: Sequence[Progress], totals: Iterable[QuestTotals]) -> pd.DataFrame:
    """Return a table of the quest types with a deadline.

    Its columns are the number of ended quests, the percentage of them in each step, and the number of running
    quests.

    The columns of the steps are named `step 0` to `step 3`, by their position in STEPS.
    """
    groups = _group(select_limited(totals), lambda row: row.type)
    running = {key: sum_running(rows) for key, rows in groups.items()}
    known = {item.type for item in progress}
    rows = [
        *progress,
        *(Progress(key, 0, 0, 0, 0) for key in sorted(running) if key not in known and running[key].quests),
    ]
    return pd.DataFrame(
        {
            "type": [format_key(item.type) for item in rows],
            "ended": [format_count(item.ended) for item in rows],
            "completed": [format_count(item.completed) for item in rows],
            **{
                f"step {place}": [format_share(item.count_steps()[place], item.ended) for item in rows]
                for place in range(len(STEPS))
            },
            "running": [format_count(running.get(item.type, Running(0, 0)).quests) for item in rows],
        }
    )


def build_weeks_table(outcomes: Iterable[QuestOutcome], *, since: date | None, today: date) -> pd.DataFrame:
    """Return one row per week, newest first: the share of the week's ended quests that were completed.

    There is a column for each quest type with a deadline, in the order of `list_progress`. If there are
    several types, a column for all types comes first. `since` is the first day of the window, or None for all
    time.
    """
    rows = select_limited(outcomes)
    weeks = _group(rows, lambda row: row.week)
    table = {"week": [format_week(week, since=since, today=today) for week in _sort_weeks(weeks)]}
    types = [item.type for item in list_progress(rows)]
    if len(types) > 1:
        done = [add_progress(weeks[week]) for week in _sort_weeks(weeks)]
        table["of ALL_TYPES"] = [format_counted_share(item.completed, item.ended) for item in done]
    for quest_type in types:
        progress = [add_progress(select_type(weeks[week], quest_type)) for week in _sort_weeks(weeks)]
        table[f"type {quest_type}"] = [format_counted_share(item.completed, item.ended) for item in progress]
    return pd.DataFrame(table)


def build_rewards_table(outcomes: Iterable[QuestOutcome], *, since: date | None, today: date) -> pd.DataFrame:
    """Return one row per week, newest first: the rewards of completed quests, summed by kind of reward."""
    rows = [row for row in outcomes if row.reward_type is not None and row.completed]
    weeks = _group(rows, lambda row: row.week)
    table = {"week": [format_week(week, since=since, today=today) for week in _sort_weeks(weeks)]}
    for kind in sorted({row.reward_type or "" for row in rows}):
        sums = [
            sum((row.earned for row in weeks[week] if row.reward_type == kind), Decimal(0))
            for week in _sort_weeks(weeks)
        ]
        table[f"kind {kind}"] = [format_amount(amount, kind) if amount else "" for amount in sums]
    return pd.DataFrame(table)


def list_rewards(
    outcomes: Iterable[QuestOutcome], totals: Iterable[QuestTotals]
) -> list[tuple[str, str, str]]:
    """Return (kind, given, open) for each kind of reward.

    `given` is the sum of the rewards of completed quests, and `open` the sum that running quests can still
    give.
    """
    given = _sum_rewards(outcomes, lambda row: row.earned)
    still_open = _sum_rewards(totals, lambda row: row.open)
    return [
        (
            format_key(kind),
            format_amount(given.get(kind, Decimal(0)), kind),
            format_amount(still_open.get(kind, Decimal(0)), kind),
        )
        for kind in sorted({*given, *still_open})
    ]


def _sum_rewards(rows: Iterable[Any], get_amount: Callable[[Any], Decimal]) -> Mapping[str, Decimal]:
    groups = _group((row for row in rows if row.reward_type is not None), lambda row: row.reward_type)
    return {kind: sum(map(get_amount, group), Decimal(0)) for kind, group in groups.items()}


def format_week(week: date | None, *, since: date | None, today: date) -> str:
    """Write the Monday of a week: `2026-11-16`, `2026-11-23 (so far)`, `2026-11-09 (from Wed)`.

    The text in brackets marks a week that is not over, or a week that began before the window.
    """
    if week is None:
        return "unknown"
    missing = []
    if since is not None and since > week:
        missing.append(f"from {since:%a}")
    if today < week + timedelta(days=7):
        missing.append("so far")
    return f"{week} ({', '.join(missing)})" if missing else week.isoformat()


def _sort_weeks(weeks: Iterable[date | None]) -> list[date | None]:
    return sorted(weeks, key=lambda week: week or date.min, reverse=True)


def build_times_table(titles: Sequence[CompletionTime]) -> pd.DataFrame:
    """Return one row per quest title: the number of completed quests and their median time to complete."""
    return pd.DataFrame(
        {
            "median": [describe_duration(item.median) for item in titles],
            "title": [item.title for item in titles],
            "completed": [format_count(item.completed) for item in titles],
            "type": [format_key(item.type) for item in titles],
        }
    )


class ReturnComparison(msgspec.Struct, frozen=True):
    """Whether players return more often after sessions with a quest of a type than after other sessions.

    `difference` is in percentage points, and None if there are too few sessions to compare.
    """

    counts: QuestReturn
    difference: Decimal | None
    verdict: str


def compare_returns(returns: Iterable[QuestReturn]) -> list[ReturnComparison]:
    """Return one comparison per quest type, the largest difference first, types without a difference last."""
    found = [_compare_return(item) for item in returns]
    return sorted(found, key=lambda item: (item.difference is None, -abs(item.difference or Decimal(0))))


def _compare_return(item: QuestReturn) -> ReturnComparison:
    """Compare the share of returning players with and without a quest of a type.

    There is a difference if it is at least MIN_DIFFERENCE, and if the z-test for two proportions with a
    pooled share finds it significant (NIST/SEMATECH e-Handbook of Statistical Methods, 7.3.3). MIN_DIFFERENCE
    is needed because the test assumes independent sessions. The sessions of one player are not independent,
    so with many sessions the test finds very small differences significant.
    """
    if not item.sessions_without:
        return ReturnComparison(item, None, "everybody had one")
    if min(item.sessions_with, item.sessions_without) < MIN_SESSIONS:
        return ReturnComparison(item, None, TOO_FEW)
    share_with = Decimal(item.returned_with) / item.sessions_with
    difference = (share_with - Decimal(item.returned_without) / item.sessions_without) * 100
    pooled = (item.returned_with + item.returned_without) / (item.sessions_with + item.sessions_without)
    error = 100 * sqrt(pooled * (1 - pooled) * (1 / item.sessions_with + 1 / item.sessions_without))
    if abs(difference) < MIN_DIFFERENCE or abs(difference) < CHANCE_ERRORS * error:
        return ReturnComparison(item, difference, NO_DIFFERENCE)
    return ReturnComparison(item, difference, MORE_OFTEN if difference > 0 else LESS_OFTEN)


def describe_returns(comparisons: Sequence[ReturnComparison]) -> str:
    """Return a text that names the quest types with which players return more or less often, as Markdown."""
    parts = []
    for verdict in (MORE_OFTEN, LESS_OFTEN):
        names = ", ".join(
            f"**{escape_markdown(format_key(item.counts.type))}** ({format_points(item.difference or 0)})"
            for item in comparisons
            if item.verdict == verdict
        )
        parts += [f"Players return {verdict} with {names}."] if names else []
    if not parts and all(item.difference is None for item in comparisons):
        return f"**Too little to compare**: no type has {MIN_SESSIONS} sessions with and without it."
    return " ".join(parts) or "**No visible difference** with any type."


def build_returns_table(comparisons: Sequence[ReturnComparison]) -> pd.DataFrame:
    """Return one row per quest type: how often players returned with and without a quest of the type."""
    rows = [item.counts for item in comparisons]
    return pd.DataFrame(
        {
            "type": [format_key(row.type) for row in rows],
            "verdict": [item.verdict for item in comparisons],
            "difference": [
                "-" if item.difference is None else format_points(item.difference) for item in comparisons
            ],
            "with": [_format_returned(row.returned_with, row.sessions_with) for row in rows],
            "without": [_format_returned(row.returned_without, row.sessions_without) for row in rows],
        }
    )


def _format_returned(returned: int, sessions: int) -> str:
    """Write the share of sessions after which the player returned: `99.2% of 591`; `-` without sessions."""
    return f"{format_share(returned, sessions, places=1)} of {format_count(sessions)}" if sessions else "-"


def describe_not_compared(returns: Iterable[QuestReturn], totals: Iterable[QuestTotals]) -> str:
    """Return a sentence that names the quest types of `totals` that have no comparison in `returns`.

    It is empty if there are none.
    """
    missing = {row.type for row in totals} - {item.type for item in returns}
    names = ", ".join(escape_markdown(name) for name in sorted(map(format_key, missing)))
    return f" Not compared, because no such session was played with one: {names}." if names else ""


def build_stuck_table(stuck: Sequence[StuckQuest], now: datetime) -> pd.DataFrame:
    """Return one row per stuck quest, in the given order."""
    return pd.DataFrame(
        {
            "player": [build_player_link(item.username) for item in stuck],
            "title": [item.quest.title for item in stuck],
            "reason": [describe_reasons(item) for item in stuck],
            "progress": [measure_progress_percent(item.quest) for item in stuck],
            "running": [describe_duration(max(now - item.quest.created_at, timedelta())) for item in stuck],
            "left": [format_time_left(item.quest.expires_at, now) or "no end" for item in stuck],
            "seen": [
                "never" if item.last_active is None else f"{item.last_active.astimezone(UTC):%Y-%m-%d}"
                for item in stuck
            ],
        }
    )


def describe_stuck(stuck: StuckQuests) -> str:
    """Return a text that says how many quests are stuck and why, as Markdown.

    The first sentence counts each quest for one reason only. The second sentence counts all stuck quests of
    players who were not seen, also those that have another reason.
    """
    parts = (
        (stuck.untouched, "without progress"),
        (stuck.behind, "behind"),
        (
            stuck.quests - stuck.untouched - stuck.behind,
            "on time, but of players who were not seen for 7 days",
        ),
    )
    return (
        f"**{format_quantity(stuck.quests, 'stuck quest')}** of {format_quantity(stuck.players, 'player')}: "
        f"{', '.join(f'{format_count(quests)} {reason}' for quests, reason in parts)}. In all, "
        f"{format_count(stuck.unseen)} {'is' if stuck.unseen == 1 else 'are'} of players who were not seen "
        "for 7 days."
    )


def describe_reasons(item: StuckQuest) -> str:
    """Return the texts of all reasons in STUCK_REASONS that apply, such as `no progress, player not seen`."""
    return ", ".join(reason for name, reason in STUCK_REASONS.items() if getattr(item, name))


def build_expiring_table(quests: Sequence[PlayerQuest], now: datetime) -> pd.DataFrame:
    """Return one row per quest that expires soon, in the given order."""
    return pd.DataFrame(
        {
            "player": [build_player_link(item.username) for item in quests],
            "title": [item.quest.title for item in quests],
            "progress": [measure_progress_percent(item.quest) for item in quests],
            "left": [format_time_left(item.quest.expires_at, now) for item in quests],
        }
    )


def build_player_table(quests: Sequence[Quest], now: datetime) -> pd.DataFrame:
    """Return one row per quest of a player, in the given order."""
    return pd.DataFrame(
        {
            "title": [quest.title for quest in quests],
            "status": [_describe_status(quest, now) for quest in quests],
            "progress": [measure_progress_percent(quest) for quest in quests],
            "reward": [
                format_reward(quest.reward_type, quest.reward_value) if quest.reward_type else ""
                for quest in quests
            ],
            "given": [quest.created_at for quest in quests],
            "completed": [quest.completed_at for quest in quests],
            "left": [
                format_time_left(quest.expires_at, now) if quest.status == "ACTIVE" else ""
                for quest in quests
            ],
        }
    )


def _describe_status(quest: Quest, now: datetime) -> str:
    """Write the status of a quest. An active quest past its end is written as `Expired`."""
    if quest.status != "ACTIVE":
        return format_key(quest.status)
    return "Running" if quest.expires_at is None or quest.expires_at > now else "Expired"


def measure_progress_percent(quest: Quest) -> int:
    """Return the progress of a quest in integer percent. It is 100 only if the target is reached."""
    return measure_share(quest.current_progress, quest.target_value) if quest.target_value > 0 else 100
