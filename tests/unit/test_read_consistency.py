"""LSNs of the write-ahead log: text form, consistency tokens, samples of the primary, key slots."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cache.lsn_slots import SLOTS, list_slots
from core.cache.lsn_slots import format_lsn as format_for_slot
from core.database.read_consistency import (
    ConsistencyToken,
    LogTimeline,
    OwnWrites,
    format_lsn,
    parse_lsn,
    parse_token,
)
from core.database.replication_lag import MAX_LAG_SECONDS, PrimaryLsns

LSNS = st.integers(min_value=0, max_value=2**64 - 1)


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the current time."""
        return self.now


@given(LSNS)
def test_an_lsn_survives_formatting_and_parsing(lsn: int) -> None:
    """An LSN is formatted as PostgreSQL formats it, and parsing returns the same LSN."""
    assert parse_lsn(format_lsn(lsn)) == lsn
    assert parse_lsn("16/B374D848") == 0x16_B374D848


@given(LSNS, LSNS)
def test_texts_in_slots_sort_like_lsns(one: int, two: int) -> None:
    """The texts of LSNs in slots sort like the LSNs, because the Redis script compares texts."""
    assert (format_for_slot(one) < format_for_slot(two)) == (one < two)


@given(LSNS, st.integers(min_value=0, max_value=2**32 - 1))
def test_a_token_survives_formatting_and_parsing(lsn: int, timeline: int) -> None:
    """The text of a consistency token is parsed into an equal token."""
    token = ConsistencyToken(LogTimeline("7301", timeline), lsn)
    assert parse_token(str(token)) == token


@pytest.mark.parametrize(
    "text", ["", "1", "7301.00000001.", "7301.00000001.G", "7301.1.A", "a.00000001.A", None, 5,
             b"1.00000001.A", "7301.00000001.A\n", "7301.00000001." + "A" * 17, "٣.00000001.A"]
)  # fmt: skip  # a compact list of invalid texts
def test_an_invalid_text_is_no_token(text: object) -> None:
    """`parse_token` returns None for an invalid text and for a value of another type."""
    assert parse_token(text) is None


def make_answer(samples: PrimaryLsns, clock: Clock) -> Callable[[str, float], None]:
    """Return a function that records an answer of the primary after some seconds."""

    def answer(lsn: str, after_seconds: float) -> None:
        clock.now += after_seconds
        samples.record_answer(clock.now, (lsn, "7301", "00000001"))

    return answer


def test_the_floor_is_the_oldest_recent_lsn() -> None:
    """The floor is the oldest LSN that the primary reported within MAX_LAG_SECONDS, or None."""
    clock = Clock()
    samples = PrimaryLsns(clock=clock)
    answer = make_answer(samples, clock)
    assert samples.find_floor() is None
    answer("0/1", 0)
    answer("0/2", MAX_LAG_SECONDS / 2)
    assert samples.find_floor() == 1
    clock.now += MAX_LAG_SECONDS * 0.75
    assert samples.find_floor() == 2
    clock.now += MAX_LAG_SECONDS
    assert samples.find_floor() is None


def test_the_lag_is_the_age_of_the_first_missing_lsn() -> None:
    """The lag of a replica counts from the primary's first report of an LSN that the replica lacks."""
    clock = Clock()
    samples = PrimaryLsns(clock=clock)
    answer = make_answer(samples, clock)
    for lsn in ("0/1", "0/2", "0/3"):
        answer(lsn, 1)
    assert [samples.measure_lag(lsn) for lsn in (3, 2, 1, 0)] == [0, 0, 1, 2]
    clock.now += 5
    assert [samples.measure_lag(lsn) for lsn in (3, 2)] == [0, 5]


def test_another_timeline_drops_all_samples() -> None:
    """All samples are dropped when the primary reports another timeline, or when it becomes a standby."""
    clock = Clock()
    samples = PrimaryLsns(clock=clock)
    make_answer(samples, clock)("0/5", 0)
    samples.record_answer(clock.now, ("0/3", "7301", "00000002"))
    assert samples.find_floor() == 3
    assert samples.log_timeline == LogTimeline("7301", 2)
    samples.record_answer(clock.now, (None, "7301", None))
    assert samples.find_floor() is None
    assert samples.log_timeline is None


def test_the_lsn_of_own_writes_never_decreases() -> None:
    """The LSN of own writes never decreases, and is None for 3 s after a commit without an LSN."""
    clock = Clock()
    writes = OwnWrites(unknown_seconds=3, clock=clock)
    writes.record(5)
    writes.record(4)
    assert writes.find_lsn() == 5
    writes.record(None)
    assert writes.find_lsn() is None
    clock.now += 4
    assert writes.find_lsn() == 5


def test_keys_spread_over_slots() -> None:
    """With 20 keys per slot on average, every slot has keys and no slot has 50; a key has one slot."""
    keys = [f"user:{number:032x}" for number in range(SLOTS * 20)]
    slots = [slot for key in keys for slot in list_slots([key])]
    assert len(set(slots)) == SLOTS
    assert max(map(slots.count, set(slots))) < 50
    assert list_slots([*keys, *keys]) == sorted(set(slots))
