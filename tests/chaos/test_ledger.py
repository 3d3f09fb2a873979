"""The rules by which a write counts as lost and a read as stale."""

import time

import pytest

from tests.chaos.ledger import Ledger
from tests.coherence.history import NEAR_BOUND_SECONDS


@pytest.fixture
def ledger() -> Ledger:
    """Return a ledger in which version 3 of a price is acknowledged and version 4 is begun."""
    ledger = Ledger(["price:0", "name:0"])
    for _ in range(2):
        ledger.acknowledge("price:0", ledger.begin("price:0"))
    ledger.begin("price:0")
    return ledger


@pytest.mark.parametrize(("version", "is_stale"), [(2, True), (3, False), (4, False), (5, True)])
def test_a_read_shows_the_acknowledged_or_begun_version(
    ledger: Ledger, version: int, *, is_stale: bool
) -> None:
    """A read may show the acknowledged version 3 or the begun version 4, but not version 2 or 5."""
    assert bool(ledger.list_stale({"price:0": version}, ledger.get_acknowledged())) is is_stale


def test_other_processes_may_see_a_write_later(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may miss a write until 2.5 s after Redis has received the invalidation."""
    invalidated = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: invalidated)
    ledger.record_invalidated()
    assert ledger.get_visible()["price:0"] == 1
    monkeypatch.setattr(time, "monotonic", lambda: invalidated + NEAR_BOUND_SECONDS)
    assert ledger.get_visible()["price:0"] == 3
    ledger.acknowledge("price:0", 4)
    assert ledger.get_visible()["price:0"] == 3, "Redis has not received the invalidation of version 4"


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
def test_each_lost_write_is_reported_once(
    ledger: Ledger, stored: dict[str, int], rows: set[int], lost: int
) -> None:
    """A lost write is reported once; a lost price is reported even if a later price is stored."""
    due = ledger.get_acknowledged()
    assert len(ledger.list_lost(due, stored=stored, rows={"price:0": rows})) == lost
    assert ledger.list_lost(due, stored=stored, rows={"price:0": rows}) == []


def test_a_write_during_the_comparison_is_not_lost(ledger: Ledger) -> None:
    """A write that is acknowledged after `due` was read does not count as lost."""
    due = ledger.get_acknowledged()
    ledger.acknowledge("price:0", 4)
    assert ledger.list_lost(due, stored={"price:0": 3}, rows={"price:0": {1, 2, 3}}) == []
