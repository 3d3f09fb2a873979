"""The age of a last known value belongs to the task or thread that read it."""

import asyncio
import threading

from core.cache.near import FailSafeValues


def recall(known: FailSafeValues) -> None:
    """Read a last known value."""
    known.begin_read()
    assert known.recall("user:alice") == "alice"


def test_tasks_of_one_thread_do_not_see_each_others_age() -> None:
    """One reads a stale value, another a fresh one, then each asks how old its own is."""
    known = FailSafeValues(max_entries=10, seconds=60)
    known.remember(known.take_ticket(), {"user:alice": "alice"}, ())

    async def read(*, is_stale: bool) -> bool:
        if is_stale:
            recall(known)
        else:
            known.begin_read()
        await asyncio.sleep(0)
        return known.age_seconds is not None

    async def work() -> tuple[bool, bool, bool]:
        return await asyncio.gather(read(is_stale=True), read(is_stale=False), read(is_stale=True))

    assert list(asyncio.run(work())) == [True, False, True]
    assert known.age_seconds is None


def test_threads_do_not_see_each_others_age() -> None:
    """A thread that read nothing has no age; a fresh read ends that of the one before."""
    known = FailSafeValues(max_entries=10, seconds=60)
    known.remember(known.take_ticket(), {"user:alice": "alice"}, ())
    recall(known)
    seen: list[float | None] = []
    thread = threading.Thread(target=lambda: seen.append(known.age_seconds))
    thread.start()
    thread.join()
    assert seen == [None]
    assert known.age_seconds is not None
    known.begin_read()
    assert known.age_seconds is None
