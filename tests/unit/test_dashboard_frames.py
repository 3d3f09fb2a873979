"""Records turned into tables and figures."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest
from frozendict import frozendict

from core.records import LeaderboardEntry, Portfolio, Quest
from dashboard import frames
from dashboard.medals import MEDALS
from tests.game import build_portfolio

NOW = datetime(2013, 3, 1, 21, tzinfo=UTC)
TODAY = date(2013, 3, 1)


def build_entries(scores: Sequence[str], names: Sequence[str] = ()) -> list[LeaderboardEntry]:
    """Return a board with these scores, best first, ranked like the service ranks."""
    return [
        LeaderboardEntry(
            id=UUID(int=place + 1),
            user_id=UUID(int=place + 1),
            username=names[place] if names else f"player{place}",
            session_date=TODAY,
            category="daily_returns",
            score=Decimal(score),
            rank=list(scores).index(score) + 1,
            metadata=frozendict(),
            created_at=NOW,
        )
        for place, score in enumerate(scores)
    ]


def build_history(changes: Sequence[str]) -> list[Portfolio]:
    """Return sessions with these changes, newest first."""
    days = (TODAY - timedelta(days=age) for age in range(len(changes)))
    return [
        build_portfolio(UUID(int=1), day, Decimal(change)) for day, change in zip(days, changes, strict=True)
    ]


def build_quest(*, progress: str, target: str, **changes: object) -> Quest:
    """Return an active quest."""
    values = {
        "id": UUID(int=1),
        "user_id": UUID(int=2),
        "type": "TRADES",
        "title": "Make 20 trades",
        "description": None,
        "target_value": Decimal(target),
        "current_progress": Decimal(progress),
        "status": "ACTIVE",
        "reward_type": None,
        "reward_value": None,
        "created_at": NOW,
        "expires_at": None,
    }
    return Quest(**(values | changes))  # type: ignore[arg-type]  # one value of each field's type


@pytest.mark.parametrize("name", ["alice", "a/b c", "50% & more?", "žofia", "x#y+z"])
def test_a_player_link_names_the_player(name: str) -> None:
    """The link survives every character that a username can have."""
    address = frames.build_player_link(name)
    parts = urlsplit(address)
    assert parts.path == "portfolios"
    assert parse_qs(parts.query) == {"player": [name]}


def test_every_score_is_in_one_bin() -> None:
    """The bins of a distribution hold all players, the best and worst included."""
    entries = build_entries([f"{score / 7:.2f}" for score in range(200, 0, -1)])
    bins = frames.bin_values([entry.score for entry in entries])
    assert sum(item.players for item in bins) == 200
    assert bins[0].low == pytest.approx(0.14)
    assert bins[-1].high == pytest.approx(28.57)


def test_small_whole_scores_get_a_bin_each() -> None:
    """Counts such as finished quests are not cut at odd places."""
    bins = frames.bin_values([Decimal(score) for score in ("4", "2", "2", "1", "0")])
    assert [(item.low, item.high, item.players) for item in bins] == [
        (-0.5, 0.5, 1),
        (0.5, 1.5, 1),
        (1.5, 2.5, 2),
        (2.5, 3.5, 0),
        (3.5, 4.5, 1),
    ]


@pytest.mark.parametrize("scores", [[], ["1"], ["2", "2", "2", "2", "2"], ["4", "3", "2", "1"]])
def test_no_distribution_without_a_spread(scores: list[str]) -> None:
    """Too few scores, or all the same, are no distribution."""
    assert frames.bin_values([Decimal(score) for score in scores]) == ()


def test_a_history_keeps_its_order_and_adds_what_is_invested() -> None:
    """One row per session; invested is value less cash."""
    frame = frames.build_history_frame(build_history(["100", "-50"]))
    assert list(frame["session"]) == [TODAY, TODAY - timedelta(days=1)]
    assert list(frame["value"]) == [10_100.0, 9_950.0]
    assert list(frame["change_percent"]) == [1.0, -0.5]
    assert list(frame["invested"]) == [7_600.0, 7_450.0]


def test_latest_figures_add_up() -> None:
    """Cash and what is invested make the value."""
    figures = frames.read_latest_figures(build_history(["100"])[0])
    assert figures.cash + figures.invested == figures.total_value
    assert round(figures.invested_percent, 2) == Decimal("75.25")


def test_a_worthless_portfolio_has_nothing_invested() -> None:
    """No division by zero."""
    portfolio = build_portfolio(UUID(int=1), TODAY, Decimal(-10_000))
    assert frames.read_latest_figures(portfolio).invested_percent == 0


def test_a_record_counts_gains_as_won() -> None:
    """A session that ends where it began is not won."""
    record = frames.summarize_history(build_history(["100", "0", "-40"]))
    assert (record.sessions, record.won) == (3, 1)
    assert (record.best_change, record.worst_change) == (Decimal(100), Decimal(-40))
    assert record.average_change == Decimal(20)


@pytest.mark.parametrize(
    ("progress", "target", "fraction", "text"),
    [
        ("13", "20", 0.65, "13 of 20"),
        ("10212.40", "10500", 0.9726, "10,212.40 of 10,500"),
        ("25", "20", 1.0, "25 of 20"),
        ("-5", "20", 0.0, "-5 of 20"),
        ("0", "0", 1.0, "0 of 0"),
    ],
)
def test_a_quest_card_has_a_bar_between_empty_and_full(
    progress: str, target: str, fraction: float, text: str
) -> None:
    """Progress beyond the target, or below zero, stays on the bar."""
    card = frames.build_quest_card(build_quest(progress=progress, target=target), NOW)
    assert card.fraction == pytest.approx(fraction, abs=1e-4)
    assert card.progress == text


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("cash", Decimal(250), "$250.00 cash"),
        ("bonus_points", Decimal(1500), "1,500 bonus points"),
        ("badge", None, "Badge"),
        (None, None, ""),
        (None, Decimal(5), "5"),
    ],
)
def test_a_quest_card_names_the_reward(kind: str | None, value: Decimal | None, text: str) -> None:
    """Only cash is money."""
    quest = build_quest(progress="1", target="2", reward_type=kind, reward_value=value)
    assert frames.build_quest_card(quest, NOW).reward == text


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_medal_is_an_image(rank: int) -> None:
    """It is well-formed SVG that shows its rank."""
    kind, svg = MEDALS[rank].split(",", 1)
    assert kind == "data:image/svg+xml"
    root = ET.fromstring(unquote(svg))  # our own text
    assert root.find("{http://www.w3.org/2000/svg}text").text == str(rank)  # type: ignore[union-attr]  # it is there
