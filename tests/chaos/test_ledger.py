"""What counts as lost and as stale."""

import time

import pytest

from tests.chaos.ledger import OTHERS, Ledger


@pytest.fixture
def ledger() -> Ledger:
    """Four versions of a price; the last one was refused or is on its way."""
    ledger = Ledger(["price:0", "name:0"])
    for _ in range(2):
        ledger.acknowledge("price:0", ledger.begin("price:0"))
    ledger.begin("price:0")
    return ledger


@pytest.mark.parametrize(("version", "is_stale"), [(2, True), (3, False), (4, False), (5, True)])
def test_an_answer_is_as_new_as_what_was_acknowledged(
    ledger: Ledger, version: int, *, is_stale: bool
) -> None:
    """A write with an unknown outcome may show or not; one that never began may not."""
    assert bool(ledger.list_stale({"price:0": version}, ledger.find_newest())) is is_stale


def test_other_processes_have_a_moment_to_hear(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write counts for them when Redis was told of it and their near cache had its time."""
    told = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: told)
    ledger.note_told()
    assert ledger.find_told()["price:0"] == 1
    monkeypatch.setattr(time, "monotonic", lambda: told + OTHERS)
    assert ledger.find_told()["price:0"] == 3
    ledger.acknowledge("price:0", 4)
    assert ledger.find_told()["price:0"] == 3, "Redis was not told of the fourth"


@pytest.mark.parametrize(
    ("stored", "rows", "lost"),
    [
        ({"name:0": 1, "price:0": 3}, {1, 2, 3}, 0),
        ({"name:0": 1, "price:0": 4}, {1, 2, 3, 4}, 0),
        ({"name:0": 1, "price:0": 3}, {1, 3}, 1),
        ({"name:0": 1, "price:0": 2}, {1, 2}, 1),
        ({"name:0": 0, "price:0": 3}, {1, 2, 3}, 1),
    ],
)
def test_each_acknowledged_write_is_stored(
    ledger: Ledger, stored: dict[str, int], rows: set[int], lost: int
) -> None:
    """Each lost write is reported once, also if a later one covers it, where versions are rows."""
    due = ledger.find_newest()
    assert len(ledger.list_lost(due, stored=stored, rows={"price:0": rows})) == lost
    assert ledger.list_lost(due, stored=stored, rows={"price:0": rows}) == []


def test_a_write_during_the_comparison_is_not_lost(ledger: Ledger) -> None:
    """A write that begins during the comparison may be acknowledged after the rows were read."""
    due = ledger.find_newest()
    ledger.acknowledge("price:0", 4)
    assert ledger.list_lost(due, stored={"price:0": 3}, rows={"price:0": {1, 2, 3}}) == []
