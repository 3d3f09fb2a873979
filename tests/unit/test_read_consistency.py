"""LSNs of the write-ahead log: their texts, tokens, samples of a primary, slots of keys."""

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
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@given(LSNS)
def test_an_lsn_is_read_as_it_is_written(lsn: int) -> None:
    """The text is in the form of PostgreSQL."""
    assert parse_lsn(format_lsn(lsn)) == lsn
    assert parse_lsn("16/B374D848") == 0x16_B374D848


@given(LSNS, LSNS)
def test_texts_in_slots_sort_like_lsns(one: int, two: int) -> None:
    """The order of the texts is that of the LSNs, because the script compares texts."""
    assert (format_for_slot(one) < format_for_slot(two)) == (one < two)


@given(LSNS, st.integers(min_value=0, max_value=2**32 - 1))
def test_a_token_is_read_as_it_is_written(lsn: int, timeline: int) -> None:
    """Parsing the text of a token returns an equal token."""
    token = ConsistencyToken(LogTimeline("7301", timeline), lsn)
    assert parse_token(str(token)) == token


@pytest.mark.parametrize(
    "text", ["", "1", "7301.00000001.", "7301.00000001.G", "7301.1.A", "a.00000001.A", None, 5,
             b"1.00000001.A", "7301.00000001.A\n", "7301.00000001." + "A" * 17, "٣.00000001.A"]
)  # fmt: skip  # one text a line would hide that these are few
def test_another_text_is_no_token(text: object) -> None:
    """A value of another type is no token either."""
    assert parse_token(text) is None


def note(samples: PrimaryLsns, clock: Clock) -> Callable[[str, float], None]:
    """Return a function that lets the primary answer after some seconds."""

    def answer(lsn: str, after_seconds: float) -> None:
        clock.now += after_seconds
        samples.record_answer(clock.now, (lsn, "7301", "00000001"))

    return answer


def test_the_floor_is_the_oldest_lsn_that_is_young_enough() -> None:
    """Without a young sample there is no floor; older samples are not used."""
    clock = Clock()
    samples = PrimaryLsns(clock=clock)
    answer = note(samples, clock)
    assert samples.find_floor() is None
    answer("0/1", 0)
    answer("0/2", MAX_LAG_SECONDS / 2)
    assert samples.find_floor() == 1
    clock.now += MAX_LAG_SECONDS * 0.75
    assert samples.find_floor() == 2
    clock.now += MAX_LAG_SECONDS
    assert samples.find_floor() is None


def test_the_lag_is_the_age_of_what_is_missing() -> None:
    """It counts from when the primary first reported an LSN that the replica lacks."""
    clock = Clock()
    samples = PrimaryLsns(clock=clock)
    answer = note(samples, clock)
    for lsn in ("0/1", "0/2", "0/3"):
        answer(lsn, 1)
    assert [samples.measure_lag(lsn) for lsn in (3, 2, 1, 0)] == [0, 0, 1, 2]
    clock.now += 5
    assert [samples.measure_lag(lsn) for lsn in (3, 2)] == [0, 5]


def test_another_history_forgets_every_sample() -> None:
    """This happens after a promotion, and when the primary becomes a standby."""
    clock = Clock()
    samples = PrimaryLsns(clock=clock)
    note(samples, clock)("0/5", 0)
    samples.record_answer(clock.now, ("0/3", "7301", "00000002"))
    assert samples.find_floor() == 3
    assert samples.log_timeline == LogTimeline("7301", 2)
    samples.record_answer(clock.now, (None, "7301", None))
    assert samples.find_floor() is None
    assert samples.log_timeline is None


def test_own_writes_never_go_back_and_are_unknown_for_a_while() -> None:
    """A commit whose LSN is unknown counts as later than the LSN of any replica."""
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
    """No slot has many of the keys, and a key always has the same slot."""
    keys = [f"user:{number:032x}" for number in range(SLOTS * 20)]
    slots = [slot for key in keys for slot in list_slots([key])]
    assert len(set(slots)) == SLOTS
    assert max(map(slots.count, set(slots))) < 50
    assert list_slots([*keys, *keys]) == sorted(set(slots))
