"""The age of a fail-safe value is known only to the task or thread that read the value."""

import asyncio
import threading

from core.cache.near import FailSafeValues


def read_stale(known: FailSafeValues) -> None:
    """Begin a read and read a fail-safe value."""
    known.begin_read()
    assert known.recall("user:alice") == "alice"


def test_tasks_of_one_thread_do_not_see_each_others_age() -> None:
    """Tasks that read stale and fresh values in turns each see the age of their own value."""
    known = FailSafeValues(max_entries=10, seconds=60)
    known.remember(known.take_ticket(), {"user:alice": "alice"}, ())

    async def read(*, is_stale: bool) -> bool:
        if is_stale:
            read_stale(known)
        else:
            known.begin_read()
        await asyncio.sleep(0)
        return known.age_seconds is not None

    async def work() -> tuple[bool, bool, bool]:
        return await asyncio.gather(read(is_stale=True), read(is_stale=False), read(is_stale=True))

    assert list(asyncio.run(work())) == [True, False, True]
    assert known.age_seconds is None


def test_threads_do_not_see_each_others_age() -> None:
    """A thread that has read nothing sees no age, and a new read clears the age of the last one."""
    known = FailSafeValues(max_entries=10, seconds=60)
    known.remember(known.take_ticket(), {"user:alice": "alice"}, ())
    read_stale(known)
    seen: list[float | None] = []
    thread = threading.Thread(target=lambda: seen.append(known.age_seconds))
    thread.start()
    thread.join()
    assert seen == [None]
    assert known.age_seconds is not None
    known.begin_read()
    assert known.age_seconds is None
