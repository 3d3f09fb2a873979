"""Tables, CSV files and searches of the leaderboards page, without a server."""

import csv
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from uuid import UUID

import altair as alt
import msgspec
import pytest
from frozendict import frozendict

from core.records import LeaderboardEntry, PeriodEntry, PeriodLeaderboard, PlayerScore, ScoreBin
from dashboard import charts
from dashboard.categories import KNOWN_CATEGORIES
from dashboard.charts import Bin
from dashboard.downloads import CHUNK_ROWS, write_csv
from dashboard.exact_ranks import ScoreSource
from dashboard.pages.leaderboards import data, download, tables
from dashboard.pages.leaderboards.data import ComparedEntries, Selection

DAY = date(2013, 2, 28)
RETURN = KNOWN_CATEGORIES[0]


def build_entries(scores: Sequence[str], names: Sequence[str] = ()) -> list[LeaderboardEntry]:
    """Return leaderboard entries with these scores, best first, ranked as the service ranks them."""
    return [
        LeaderboardEntry(
            id=UUID(int=place + 1),
            user_id=UUID(int=place + 1),
            username=names[place] if names else f"player{place}",
            session_date=date(2013, 3, 1),
            category="daily_returns",
            score=Decimal(score),
            rank=list(scores).index(score) + 1,
            metadata=frozendict(),
            created_at=datetime(2013, 3, 1, 21, tzinfo=UTC),
        )
        for place, score in enumerate(scores)
    ]


def build_score(number: int, score: str, rank: int | None) -> PlayerScore:
    """Return a player's score and rank in the session before."""
    return PlayerScore(UUID(int=number), DAY, Decimal(score), rank)


def test_the_table_compares_with_the_session_before() -> None:
    """The table shows how rank and score changed since the session before, and the gap to the leader."""
    entries = tuple(build_entries(["5.00", "3.00", "2.00", "1.00"]))
    before = {UUID(int=n): build_score(n, "3.50", rank) for n, rank in ((1, 4), (2, 1), (3, 3))}
    compared = ComparedEntries(entries, before, {UUID(int=1): (Decimal(1), Decimal(5))})
    frame = tables.build_entries_table(compared, RETURN, best=Decimal(6)).to_pydict()
    # a phone shows only the first four columns
    assert list(frame)[:4] == ["medal", "rank", "player", "score"]
    assert frame["moved"] == ["↑ 3", "↓ 1", "=", "no rank before"]
    assert frame["score"] == ["+5.00%", "+3.00%", "+2.00%", "+1.00%"]
    assert frame["change"] == ["+1.50 pts", "-0.50 pts", "-1.50 pts", ""]
    assert frame["behind"] == ["1.00 pts", "3.00 pts", "4.00 pts", "5.00 pts"]
    assert frame["trend"] == [[1.0, 5.0], [], [], []]
    assert frame["medal"] == [["gold"], ["silver"], ["bronze"], []]
    assert "value" not in frame


def test_equal_returns_show_the_values_that_rank_them() -> None:
    """If total values decide the ranks, the table has a column with the total values."""
    compared = ComparedEntries(tuple(build_entries(["5.00"])), {}, {}, values=(Decimal("10500.40"),))
    frame = tables.build_entries_table(compared, RETURN, best=Decimal(5)).to_pydict()
    assert (frame["value"], frame["behind"]) == (["$10,500.40"], [""])


@pytest.mark.parametrize(
    ("rank", "before", "players", "text"),
    [
        (2_700, 83_131, 100_000, "↑ 80,431 · top 3%, was top 84%"),
        (83_131, 2_700, 100_000, "↓ 80,431 · top 84%, was top 3%"),
        (1, 900, 100_000, "↑ 899 · top 0.1%, was top 0.9%"),
        (500, 510, 1_000, "↑ 10 · top 50%, was top 51%"),
        (500, 500, 1_000, "= · top 50%"),
        (1, 99, 100, "↑ 98"),
    ],
)
def test_a_move_on_a_large_leaderboard_has_shares(rank: int, before: int, players: int, text: str) -> None:
    """From 1,000 players on, a move also shows the rank before and after in percent of the players."""
    earlier = build_score(1, "1", before)
    assert tables.describe_move(rank, earlier, players=players, players_before=players) == text


def test_an_empty_table_has_the_same_column_types() -> None:
    """A table without entries has the schema of a table with entries."""
    full = ComparedEntries(tuple(build_entries(["5.00"])), {UUID(int=1): build_score(1, "3.50", 4)}, {})
    empty = tables.build_entries_table(ComparedEntries((), {}, {}), RETURN, best=Decimal(5))
    assert empty.schema == tables.build_entries_table(full, RETURN, best=Decimal(5)).schema


def test_a_period_has_a_table() -> None:
    """The table of a period has each player's number of sessions; its search ignores case."""
    entries = [PeriodEntry(UUID(int=n), name, Decimal(3 - n), 2, n) for n, name in ((1, "Amy"), (2, "bob"))]
    frame = tables.build_period_table(entries, {}, RETURN, best=Decimal(2)).to_pydict()
    assert frame["player"] == ["Amy", "bob"]
    assert frame["sessions"] == [2, 2]
    assert (frame["score"], frame["behind"]) == (["+2.00%", "+1.00%"], ["", "1.00 pts"])
    assert [entry.username for entry in data.filter_by_name(entries, "aM")] == ["Amy"]
    means = tables.build_period_table(entries, {}, KNOWN_CATEGORIES[2], best=Decimal(2)).to_pydict()
    assert means["score"] == ["2.00", "1.00"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"cells": [(1, "score")]}, "bob"),
        ({"cells": [(0, "rank")]}, "alice"),
        ({"cells": [(0, "medal")]}, None),
        ({"rows": [], "cells": []}, None),
        ({"cells": [(9, "score")]}, None),
        ({}, None),
    ],
)
def test_a_selected_cell_selects_its_player(selection: dict[str, object], expected: str | None) -> None:
    """A cell selects the player of its row; cells of the first column and missing rows select nobody."""
    assert tables.find_clicked_player(selection, ["alice", "bob"]) == expected


@pytest.mark.parametrize(
    ("value", "before", "unit", "text"),
    [
        ("1.5", "1.2", "percent", "+0.30 pts"),
        ("10", "12", "currency", "-$2.00"),
        ("4", "4", "count", "0"),
        ("10", "10", "currency", "$0.00"),
        ("1.201", "1.2", "percent", "0.00 pts"),
    ],
)
def test_a_difference_has_its_sign(value: str, before: str, unit: str, text: str) -> None:
    """A difference has a sign and the category's unit; a difference that rounds to zero has no sign."""
    assert tables.describe_difference(Decimal(value), Decimal(before), unit) == text  # type: ignore[arg-type]  # literals


def test_bins_of_whole_numbers_are_drawn_around_them() -> None:
    """The bin of the count 3 reaches from 2.5 to 3.5; a single bin is not drawn."""
    bins = (ScoreBin(Decimal(3), Decimal(4), 2), ScoreBin(Decimal(4), Decimal(5), 1))
    assert tables.build_bins(bins, "count") == (Bin(2.5, 3.5, 2), Bin(3.5, 4.5, 1))
    assert tables.build_bins(bins, "percent")[0] == Bin(3.0, 4.0, 2)
    assert tables.build_bins(bins[:1], "count") == ()


def test_the_compared_session_is_outlined() -> None:
    """The outline of the compared session has a point per bin, and a zero at the last edge."""
    bins = (Bin(0.0, 1.0, 3), Bin(1.0, 2.0, 5))
    spec = charts.build_histogram(bins, unit="percent", median=Decimal(1), before=bins[:1])
    alt.LayerChart.from_dict(spec)
    assert [(row["low"], row["players"]) for row in spec["layer"][2]["data"]["values"]] == [
        (0.0, 3),
        (1.0, 0),
    ]


@pytest.mark.parametrize("size", [0, 1, 1_201])
def test_a_file_has_a_row_for_each_entry(size: int) -> None:
    """A CSV file has a header and a row per entry, and is sent in chunks of CHUNK_ROWS rows."""
    entries = build_entries([str(size - n) for n in range(size)])
    pieces = list(write_csv(download.COLUMNS, download.list_rows(entries)))
    rows = list(csv.reader(StringIO("".join(pieces), newline="")))
    assert rows[0] == list(download.COLUMNS)
    assert [row[0] for row in rows[1:]] == [str(entry.rank) for entry in entries]
    assert len(pieces) == 1 + -(-size // CHUNK_ROWS)


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@sum"])
def test_a_username_is_no_formula(name: str) -> None:
    """A username that begins like a formula gets an apostrophe, so that a spreadsheet shows it as text."""
    [entry] = build_entries(["1"], [name])
    pieces = list(write_csv(download.COLUMNS, download.list_rows([entry])))
    assert next(csv.reader(pieces[1:]))[1] == f"'{name}"


@pytest.mark.parametrize(
    ("order", "prefix", "names"),
    [
        ("rank", "", ["bob", "Amy", "alice"]),
        ("-rank", "", ["alice", "Amy", "bob"]),
        ("username", "", ["alice", "Amy", "bob"]),
        ("-username", "", ["bob", "Amy", "alice"]),
        ("rank", "A", ["Amy", "alice"]),
        ("-rank", "aM", ["Amy"]),
    ],
)
def test_a_file_follows_the_order_and_the_search(order: str, prefix: str, names: list[str]) -> None:
    """A CSV file has the page's order and search, and the ranks of the whole leaderboard."""
    entries = build_entries(["3", "2", "1"], ["bob", "Amy", "alice"])
    rows = list(download.list_rows(entries, order=order, prefix=prefix))
    assert [row[1] for row in rows] == names
    ranks: dict[object, object] = {"bob": 1, "Amy": 2, "alice": 3}
    assert {row[1]: row[0] for row in rows} == {name: ranks[name] for name in names}


def test_a_link_to_a_file_holds_the_filters() -> None:
    """The link to a CSV file leaves out filters that have their default; a period's link has no order."""
    selection = Selection(RETURN, DAY, 1, None, 10, "-rank", "al")
    assert download.build_link(selection) == (
        "download/leaderboard.csv?category=daily_returns&day=2013-02-28&order=-rank&find=al"
    )
    period = msgspec.structs.replace(selection, sessions=7, prefix="")
    assert download.build_link(period) == (
        "download/leaderboard.csv?category=daily_returns&day=2013-02-28&sessions=7"
    )


def test_a_file_of_a_period_has_means_and_its_sessions() -> None:
    """Each row of a period's file has the mean, the number of sessions and the first and last day."""
    entries = tuple(PeriodEntry(UUID(int=n), name, Decimal(n), 2, n) for n, name in ((1, "amy"), (2, "bob")))
    period = PeriodLeaderboard(days=(DAY, DAY - timedelta(days=3)), players=2, entries=entries)
    rows = list(download.list_period_rows(period, category="daily_returns", prefix="B"))
    assert rows == [
        (2, "bob", Decimal(2), 2, UUID(int=2), DAY - timedelta(days=3), DAY, "daily_returns"),
    ]
    assert len(rows[0]) == len(download.PERIOD_COLUMNS)


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        # an open session: the stored 0.90 contradicts the total value 10,010.00, which gives 0.10
        (datetime.now(UTC).date() + timedelta(days=1), ["0.20", "0.10", "0.06"]),
        (DAY, ["0.20", "0.90", "0.06"]),
    ],
)
def test_open_returns_are_in_the_order_of_their_ranks(day: date, expected: list[str]) -> None:
    """In an open session, a stored return that contradicts the total value is replaced by a computed one."""

    class Service:
        def list_player_scores(self, *_: object) -> list[PlayerScore]:
            return [build_score(1, "0.20", None), build_score(2, "0.90", None)]

    source = ScoreSource(day, "daily_returns", "total_value")
    ranked = build_entries(["10020.40", "10010.00", "10006.49"])
    entries = source.replace_scores(Service(), ranked)  # type: ignore[arg-type]  # has the one call
    assert [entry.score for entry in entries] == [Decimal(score) for score in expected]
    assert [entry.rank for entry in entries] == [1, 2, 3]


def test_a_search_selects_one_player_or_none() -> None:
    """If a search matches several players, it selects only a player whose whole name was typed."""

    class Service:
        def get_leaderboard_around(self, user_id: UUID, *_: object, **__: object) -> tuple[UUID]:
            return (user_id,)

    selection = Selection(KNOWN_CATEGORIES[0], DAY, 1, None, 10, "rank", "PLAYER1")
    entries = build_entries(["3", "2"], ["player1", "player10"])
    source = ScoreSource(DAY, "daily_returns", "daily_returns")
    found = data.find_neighbours(Service(), source, selection, entries)  # type: ignore[arg-type]  # has the one call
    assert found is not None
    assert found[0].username == "player1"
    several = msgspec.structs.replace(selection, prefix="play")
    assert data.find_neighbours(Service(), source, several, entries) is None  # type: ignore[arg-type]  # as above


def test_a_medal_has_a_name() -> None:
    """The medal cell has the word `gold`, for screen readers; both players with rank 1 have gold."""
    entries = tuple(build_entries(["2", "2"]))
    frame = tables.build_entries_table(ComparedEntries(entries, {}, {}), RETURN, best=Decimal(2)).to_pydict()
    assert (frame["medal"], frame["rank"]) == ([["gold"], ["gold"]], [1, 1])
