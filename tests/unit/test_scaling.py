"""The calculations of docs/scaling.md."""

from pathlib import Path

import pytest

from tests.bench.scaling import (
    COSTS,
    LIMITS,
    PLAYERS,
    build_assumptions,
    build_tables,
    compute,
    show_number,
    show_share,
    show_size,
)


def test_the_page_has_the_tables_of_the_script(repository: Path) -> None:
    """docs/scaling.md contains the assumptions and the tables that `tests.bench.scaling` prints."""
    page = (repository / "docs/scaling.md").read_text(encoding="utf-8")
    for table in (build_assumptions(), *build_tables()):
        assert table in page


def test_demand_grows_with_the_players() -> None:
    """Ten times the players need ten times the reads, CPU and Redis memory, but the same near cache."""
    few, many = compute(PLAYERS[0]), compute(PLAYERS[0] * 10)
    assert many.reads == pytest.approx(few.reads * 10)
    assert many.server_cores == pytest.approx(few.server_cores * 10)
    assert many.redis_bytes == pytest.approx(few.redis_bytes * 10)
    assert few.near_bytes == many.near_bytes
    assert few.month_bytes < many.month_bytes < few.month_bytes * 10


def test_a_unit_cost_affects_one_resource() -> None:
    """Larger score rows need more disk only; a more expensive score needs more processor time only."""
    plain = compute(PLAYERS[1])
    large = compute(PLAYERS[1], COSTS._replace(entry_bytes=COSTS.entry_bytes * 2))
    slow = compute(PLAYERS[1], COSTS._replace(score_server_seconds=COSTS.score_server_seconds * 2))
    assert large.month_bytes > plain.month_bytes
    assert large.server_cores == plain.server_cores
    assert slow.server_cores > plain.server_cores
    assert slow.month_bytes == plain.month_bytes


def test_the_largest_game_does_not_fit_on_one_server() -> None:
    """One server is enough for the smallest number of players; the largest exceeds at least three limits."""
    small, large = compute(PLAYERS[0]), compute(PLAYERS[-1])
    assert all(limit.used(small) <= limit.most for limit in LIMITS)
    assert {limit.name for limit in LIMITS if limit.used(large) > limit.most} >= {
        "processor of PostgreSQL",
        "disk of PostgreSQL",
        "commands of Redis",
    }


@pytest.mark.parametrize(
    ("size", "shown"), [(12, "12 B"), (1_070, "1.07 kB"), (2.5e9, "2.5 GB"), (4e12, "4 TB")]
)
def test_sizes_are_shown_in_the_largest_unit(size: float, shown: str) -> None:
    """A size has the largest unit and three significant digits."""
    assert show_size(size) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(0.0123, "0.012"), (9.94, "9.9"), (12.34, "12"), (486_111, "486,000")]
)
def test_numbers_are_rounded_to_significant_digits(number: float, shown: str) -> None:
    """A number has three significant digits, or two if it is below 100."""
    assert show_number(number) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.00044, "< 0.01"), (0.01, "0.01"), (0.36, "0.36"), (11.2, "11")]
)
def test_a_share_is_rounded(share: float, shown: str) -> None:
    """A share of a limit has two digits, and one below 0.01 is shown as '< 0.01'."""
    assert show_share(share) == shown
