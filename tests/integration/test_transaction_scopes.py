"""Which transaction a call belongs to: in tasks, threads of pools, dependencies with yield, and generators.

A block is the body of `with service.transaction()`. Threads and event loops are real. A misused transaction
is refused with the remedy. A call that reports success has stored its rows, and after each test no
connection is in a transaction.
"""

import asyncio
import contextvars
import gc
import logging
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import anyio.to_thread
import pytest
import uvloop
from starlette.concurrency import run_in_threadpool

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import EchoMarketsError, TransactionMisused, UserNotFound
from core.records import User
from tests.conftest import Execute
from tests.patience import stretch

REMEDY = r"await asyncio\.to_thread\(function\)"
IN_TRANSACTION = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'"""

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return a function that runs a coroutine function on one kind of event loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(work: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await work()

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    return run


@pytest.fixture
def names(execute: Execute) -> Callable[[], list[str]]:
    """Return a function that returns the stored usernames in order."""
    return lambda: [name for (name,) in execute("SELECT username FROM users ORDER BY 1")]


def wait_until_idle(service: EnhancedDatabaseService, execute: Execute) -> bool:
    """Return whether every transaction ends within seconds although no call checks out a connection."""
    deadline = time.monotonic() + stretch(5)
    while execute(IN_TRANSACTION) != [(0,)] or service.pool_stats().pool_in_use:
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


@pytest.fixture
def expect_idle(service: EnhancedDatabaseService, execute: Execute) -> Iterator[None]:
    """Assert after each test that no transaction is left open."""
    yield
    assert wait_until_idle(service, execute)


pytestmark = pytest.mark.usefixtures("expect_idle")


async def succeeds(work: Awaitable[Any]) -> bool:
    """Return whether a coroutine succeeds; only an error of `core` counts as a failure."""
    try:
        await work
    except EchoMarketsError:
        return False
    return True


# -- event loops --------------------------------------------------------------------------


def test_interleaved_coroutines_store_what_they_report(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """Of two coroutines with interleaved transactions, only one that reports success has stored rows."""

    async def work() -> tuple[bool, bool]:
        async def write(name: str, *, fails: bool) -> None:
            with service.transaction():
                service.create_user(username=name)
                await asyncio.sleep(0)
                service.create_user(username=f"{name}2")
                await asyncio.sleep(0)
                if fails:
                    service.create_user(username=name)

        return await asyncio.gather(succeeds(write("alice", fails=True)), succeeds(write("bob", fails=False)))

    alice, bob = run(work)
    assert not alice
    assert names() == (["bob", "bob2"] if bob else [])


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_block_that_awaits_is_refused_with_the_remedy(
    service: EnhancedDatabaseService, run: Run, alice: User, execute: Execute, order: str
) -> None:
    """A transaction block that awaits is rolled back before another task could wait for its locks."""

    async def work() -> None:
        is_done = asyncio.Event()

        async def other() -> None:
            try:
                service.update_user_profile(alice.id, name="Other")
                assert wait_until_idle(service, execute)
            finally:
                is_done.set()

        if order == "before":
            task = asyncio.create_task(other())
        with pytest.raises(TransactionMisused, match=REMEDY) as caught, service.transaction():
            service.update_user_profile(alice.id, name="Block")
            if order == "after":
                task = asyncio.create_task(other(), context=contextvars.Context())
            await is_done.wait()
            service.create_user(username="bob")
        assert "process" not in str(caught.value)
        await task
        with pytest.raises(TransactionMisused, match=REMEDY), service.transaction():
            service.update_user_profile(alice.id, name="Block")
            await asyncio.sleep(0)
        service.create_user(username="charlie")

    started_at = time.monotonic()
    run(work)
    assert time.monotonic() - started_at < stretch(10), "a task waited for a lock of another"
    assert execute("SELECT username, name FROM users ORDER BY 1") == [("alice", "Other"), ("charlie", None)]


def test_a_block_that_awaits_keeps_its_own_error(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """If a transaction block awaits and then raises, the caller gets this error, not TransactionMisused."""

    async def work() -> None:
        with pytest.raises(LookupError), service.transaction():
            service.create_user(username="alice")
            await asyncio.sleep(0)
            raise LookupError("mine")

    run(work)
    assert names() == []


def test_a_block_without_an_await_works_in_a_coroutine(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """A transaction block in a coroutine works if nothing in it waits; nested blocks work too."""

    async def write(name: str) -> None:
        with service.transaction():
            service.create_user(username=name)

    async def work() -> None:
        with service.transaction():
            await write("alice")
            service.create_user(username="bob")
        with pytest.raises(LookupError), service.transaction():
            await write("charlie")
            raise LookupError("undo")
        await asyncio.sleep(0)
        await write("dave")

    run(work)
    assert names() == ["alice", "bob", "dave"]


def test_blocks_run_in_threads(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """Each of 24 concurrent transaction blocks on reused threads is committed or rolled back separately."""

    def write(number: int) -> None:
        with service.transaction():
            service.create_user(username=f"user{number:02}")
            with service.transaction():
                service.create_user(username=f"user{number:02}b")
            if number % 4 == 0:
                raise LookupError("undo")

    async def work() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(write, n) for n in range(24)), return_exceptions=True)

    results = run(work)
    assert [isinstance(result, LookupError) for result in results] == [n % 4 == 0 for n in range(24)]
    kept = [f"user{n:02}" for n in range(24) if n % 4]
    assert names() == sorted([*kept, *(f"{name}b" for name in kept)])


@pytest.mark.parametrize("how", ["to_thread", "gather", "create_task", "anyio"])
def test_calls_of_another_thread_or_task_are_refused(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]], how: str
) -> None:
    """A call that another thread or task makes in the context of a transaction block is refused."""
    refused: list[str] = []

    def call(name: str) -> None:
        for attempt in (lambda: service.create_user(username=name), lambda: service.search_users("a")):
            with pytest.raises(TransactionMisused, match=REMEDY) as caught:
                attempt()
            refused.append(str(caught.value))

    async def call_here(name: str) -> None:
        call(name)

    async def work() -> None:
        with pytest.raises(TransactionMisused, match=REMEDY), service.transaction():
            service.create_user(username="alice")
            if how == "to_thread":
                await asyncio.to_thread(call, "bob")
            elif how == "anyio":
                await anyio.to_thread.run_sync(call, "bob")
            elif how == "gather":
                await asyncio.gather(call_here("bob"), call_here("charlie"))
            else:
                await asyncio.create_task(call_here("bob"))

    run(work)
    assert len(refused) == (4 if how == "gather" else 2)
    assert names() == []


def test_a_task_that_outlives_the_block_is_independent(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """A task that starts in a transaction block and runs after its end does not belong to it."""

    async def later(name: str) -> None:
        service.create_user(username=name)
        with service.transaction():
            service.create_user(username=f"{name}2")

    async def work() -> None:
        with pytest.raises(LookupError), service.transaction():
            task = asyncio.create_task(later("alice"))
            raise LookupError("undo")
        await task
        await asyncio.to_thread(service.create_user, username="bob")

    run(work)
    assert names() == ["alice", "alice2", "bob"]


def test_a_block_left_open_by_a_task_is_rolled_back(
    service: EnhancedDatabaseService,
    run: Run,
    names: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A transaction block that a callback or a finished task leaves open is rolled back and logged."""
    kept: list[Any] = []

    def open_and_return() -> None:
        kept.append(service.transaction())
        kept[-1].__enter__()
        service.create_user(username=f"user{len(kept)}")

    async def open_in_task() -> None:
        open_and_return()

    async def work() -> None:
        asyncio.get_running_loop().call_soon(open_and_return)
        await asyncio.create_task(open_in_task())
        await asyncio.sleep(0)
        service.create_user(username="alice")
        for block in kept:
            with pytest.raises(TransactionMisused, match=REMEDY):
                block.__exit__(None, None, None)

    with caplog.at_level(logging.WARNING):
        run(work)
    assert names() == ["alice"]
    assert len([record for record in caplog.records if "was left open by" in record.getMessage()]) == 2


def test_an_async_dependency_that_waits_is_refused(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """A transaction block in an async generator works, unless its task waits while the block is open."""

    async def depend() -> AsyncIterator[None]:
        with service.transaction():
            yield

    async def handle(name: str, *, waits: bool) -> None:
        generator = depend()
        await anext(generator)
        service.create_user(username=name)
        if waits:
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await anext(generator)

    async def work() -> None:
        await handle("alice", waits=False)
        with pytest.raises(TransactionMisused, match=REMEDY):
            await handle("bob", waits=True)

    run(work)
    assert names() == ["alice"]


def make_loop() -> Callable[..., None]:
    """Return the `run` of an event loop other than asyncio, which runs each task in its own context."""
    code = """if True:
        import contextvars

        def run(*functions):
            tasks = [(function(), contextvars.copy_context()) for function in functions]
            while tasks:
                for task in tasks.copy():
                    try:
                        task[1].run(task[0].send, None)
                    except StopIteration:
                        tasks.remove(task)
    """
    names: dict[str, Any] = {"__name__": "trio"}
    exec(code, names)  # trusted code; the service recognises an event loop by the module's name
    loop: Callable[..., None] = names["run"]
    return loop


class Pause:
    """An awaitable that lets the other tasks of the loop of `make_loop` run."""

    def __await__(self) -> Generator[None]:
        """Suspend the task once."""
        yield


def test_tasks_of_other_event_loops_have_own_transactions(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """Tasks that interleave on one thread are each committed or rolled back separately."""

    def build(name: str, *, fails: bool) -> Callable[[], Awaitable[None]]:
        async def write() -> None:
            try:
                with service.transaction():
                    service.create_user(username=name)
                    await Pause()
                    service.create_user(username=f"{name}2")
                    await Pause()
                    if fails:
                        raise LookupError("undo")  # noqa: TRY301  # leaves the transaction, as a caller's error does
            except LookupError:
                assert fails

        return write

    make_loop()(build("alice", fails=False), build("bob", fails=True), build("charlie", fails=False))
    assert names() == ["alice", "alice2", "charlie", "charlie2"]


# -- frameworks that move between threads -------------------------------------------------


@contextmanager
def depend(service: EnhancedDatabaseService) -> Iterator[None]:
    """Open a transaction block around an endpoint, as a FastAPI dependency with yield does."""
    with service.transaction():
        yield


async def serve(dependency: Any, endpoint: Callable[[], Any]) -> Any:
    """Run an endpoint and its dependency on worker threads, as FastAPI does for `Depends`."""
    value = await run_in_threadpool(dependency.__enter__)
    try:
        answer = await run_in_threadpool(endpoint)
    except Exception as error:
        if not await run_in_threadpool(dependency.__exit__, type(error), error, error.__traceback__):
            raise
        return value
    await run_in_threadpool(dependency.__exit__, None, None, None)
    return answer


def test_dependencies_with_yield_are_refused(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]], execute: Execute
) -> None:
    """Eight concurrent requests are refused and store no row; the next write takes under a second."""
    barrier = threading.Barrier(8)

    def endpoint(name: str) -> None:
        service.create_user(username=name)
        barrier.wait(10)
        raise LookupError("fails")

    async def work() -> list[Any]:
        requests = (serve(depend(service), lambda n=n: endpoint(f"user{n}")) for n in range(8))  # type: ignore[misc]  # a default
        return await asyncio.gather(*requests, return_exceptions=True)

    for answer in run(work):
        assert isinstance(answer, TransactionMisused)
        assert "asyncio.to_thread(function)" in str(answer)
    assert wait_until_idle(service, execute)
    started_at = time.monotonic()
    service.create_user(username="alice")
    assert time.monotonic() - started_at < stretch(1)
    assert names() == ["alice"]


def test_blocks_inside_endpoints_work(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """Transaction blocks inside endpoints, as the documentation recommends, are committed or rolled back."""

    def endpoint(name: str, *, fails: bool) -> str:
        with service.transaction():
            service.create_user(username=name)
            service.create_user(username=f"{name}2")
            if fails:
                raise LookupError("fails")
        return name

    async def work() -> list[Any]:
        calls = (run_in_threadpool(endpoint, f"user{n}", fails=n % 2 == 0) for n in range(8))
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = run(work)
    assert [answer for answer in answers if isinstance(answer, str)] == ["user1", "user3", "user5", "user7"]
    assert names() == sorted(f"user{n}{end}" for n in (1, 3, 5, 7) for end in ("", "2"))


class Dependency:
    """A dependency that opens its transaction block in an ExitStack, so that the service cannot refuse it."""

    def __init__(self, service: EnhancedDatabaseService) -> None:
        self._stack = ExitStack()
        self._service = service

    def __enter__(self) -> None:
        self._stack.enter_context(self._service.transaction())
        self._service.create_user(username="inside")

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def test_a_hidden_dependency_stores_nothing_and_fails(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """The transaction block is rolled back when `__enter__` returns, and the request fails."""

    async def work() -> None:
        with pytest.raises(TransactionMisused, match=REMEDY):
            await serve(Dependency(service), lambda: service.create_user(username="alice"))

    run(work)
    assert names() == ["alice"]


# -- threads ------------------------------------------------------------------------------


class Worker:
    """A thread that runs given functions one after another."""

    def __init__(self, name: str) -> None:
        self._work: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self._answers: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._loop, name=name)
        self._thread.start()

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._answers.put(work())
            except BaseException as error:
                self._answers.put(error)

    def __call__(self, work: Callable[[], Any]) -> Any:
        """Run `work` in the thread; return its result or its exception."""
        self._work.put(work)
        return self._answers.get(timeout=60)

    def end(self) -> None:
        """End the thread."""
        self._work.put(None)
        self._thread.join(10)


@pytest.fixture
def workers() -> Iterator[tuple[Worker, Worker]]:
    """Yield two running threads."""
    started = Worker("first"), Worker("second")
    yield started
    for worker in started:
        worker.end()


def test_a_block_that_another_thread_leaves_is_rolled_back(
    service: EnhancedDatabaseService, workers: tuple[Worker, Worker], names: Callable[[], list[str]]
) -> None:
    """A transaction block that another thread leaves is rolled back; the error names both threads."""
    first, second = workers
    block = service.transaction()
    first(block.__enter__)
    first(lambda: service.create_user(username="alice"))
    error = second(lambda: block.__exit__(None, None, None))
    assert isinstance(error, TransactionMisused)
    assert "entered in first and left in second" in str(error)
    assert "process" not in str(error)
    first(lambda: service.create_user(username="bob"))
    second(lambda: service.create_user(username="charlie"))
    assert names() == ["bob", "charlie"]


def test_a_rollback_does_not_affect_another_thread(
    service: EnhancedDatabaseService, workers: tuple[Worker, Worker], names: Callable[[], list[str]]
) -> None:
    """A rollback in one thread does not affect a write of another thread."""
    first, second = workers
    block = service.transaction()
    first(block.__enter__)
    first(lambda: service.create_user(username="alice"))
    second(lambda: service.create_user(username="bob"))
    error = LookupError("undo")
    assert first(lambda: block.__exit__(LookupError, error, None)) in {False, None, error}
    assert names() == ["bob"]


def test_a_write_in_a_copied_context_is_refused(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """In a transaction block, a write of another thread in a copy of the block's context is refused."""
    with ThreadPoolExecutor(1) as pool:
        with service.transaction():
            service.create_user(username="alice")
            context = contextvars.copy_context()
            future = pool.submit(context.run, service.create_user, username="bob")
            error = future.exception(60)
            assert isinstance(error, TransactionMisused)
            assert "MainThread" in str(error)
        pool.submit(context.run, service.create_user, username="charlie").result(60)
    assert names() == ["alice", "charlie"]


def test_entering_a_block_as_a_pool_task_is_refused(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """A pool task that only enters a transaction block is refused: its thread would run other functions."""
    stack = ExitStack()
    with ThreadPoolExecutor(1) as pool:
        for enter in (
            service.transaction().__enter__,
            depend(service).__enter__,
            generate(service).__next__,
        ):
            assert isinstance(pool.submit(enter).exception(60), TransactionMisused)
        error = pool.submit(stack.enter_context, depend(service)).exception(60)
        assert "asyncio.to_thread(function)" in str(error)
        pool.submit(service.create_user, username="alice").result(60)
    assert names() == ["alice"]


def generate(service: EnhancedDatabaseService) -> Generator[int]:
    """Yield once inside a transaction block."""
    with service.transaction():
        service.create_user(username="generated")
        yield 1
        service.create_user(username="generated2")


def test_a_reused_thread_does_not_join_an_earlier_block(
    service: EnhancedDatabaseService, names: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A transaction block that a function leaves open is rolled back; the thread's later writes are kept."""
    kept: list[Any] = []

    def open_and_return() -> None:
        kept.append(service.transaction())
        kept[-1].__enter__()
        service.create_user(username="alice")

    def write() -> None:
        service.create_user(username="bob")
        with service.transaction():
            service.create_user(username="charlie")

    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as pool:
        pool.submit(open_and_return).result(60)
        pool.submit(write).result(60)
        error = pool.submit(kept[0].__exit__, None, None, None).exception(60)
    assert isinstance(error, TransactionMisused)
    assert names() == ["bob", "charlie"]
    assert any("left open" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("how", ["thread ends", "function returns"])
def test_a_block_left_open_releases_its_locks(
    service: EnhancedDatabaseService, execute: Execute, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A transaction block that is left open releases its locks without a call, and its thread is logged."""
    alice = service.create_user(username="alice")
    kept: list[Any] = []

    def open_and_return() -> None:
        kept.append(service.transaction())
        kept[-1].__enter__()
        service.update_user_profile(alice.id, name="New")

    with caplog.at_level(logging.WARNING), ExitStack() as stack:
        if how == "thread ends":
            thread = threading.Thread(target=open_and_return, name="forgetful")
            thread.start()
            thread.join(60)
        else:
            pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="forgetful"))
            pool.submit(open_and_return).result(60)
        # waits until the row lock of the open block is released
        execute("UPDATE users SET name = 'Other' WHERE id = %s", (alice.id,))
    assert service.get_user_by_id(alice.id).name in {None, "Other"}
    assert any("forgetful" in record.getMessage() for record in caplog.records)
    with pytest.raises(TransactionMisused):
        kept[0].__exit__(None, None, None)


# -- one thread ---------------------------------------------------------------------------


def test_a_stack_may_hold_blocks(service: EnhancedDatabaseService, names: Callable[[], list[str]]) -> None:
    """An ExitStack may enter a transaction block in one function and leave it in another."""
    stack = ExitStack()

    def enter() -> None:
        stack.enter_context(service.transaction())
        stack.enter_context(service.transaction())

    enter()
    service.create_user(username="alice")
    assert names() == []
    stack.close()
    assert names() == ["alice"]
    with pytest.raises(LookupError), ExitStack() as other:
        other.enter_context(depend(service))
        service.create_user(username="bob")
        raise LookupError("undo")
    assert names() == ["alice"]


def test_a_generator_may_hold_a_block(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """The transaction block of a generator is one transaction, also if another context runs the generator."""
    assert list(generate(service)) == [1]
    assert names() == ["generated", "generated2"]
    other = generate(service)
    with pytest.raises(EchoMarketsError):
        # the usernames are taken, so the write fails
        contextvars.copy_context().run(next, other)
    assert names() == ["generated", "generated2"]


def test_contexts_of_one_thread_share_its_block(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """A call in another context of the same thread belongs to the open transaction block."""
    generator = generate(service)
    contextvars.copy_context().run(next, generator)
    contextvars.Context().run(service.create_user, username="alice")
    assert names() == []
    assert list(contextvars.copy_context().run(list, generator)) == []
    assert names() == ["alice", "generated", "generated2"]


@pytest.mark.parametrize("how", ["closed", "dropped", "collected"])
def test_a_dropped_generator_is_rolled_back(
    service: EnhancedDatabaseService,
    names: Callable[[], list[str]],
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The transaction block of a closed or collected generator is rolled back and logged."""
    cycle: list[Any] = [generate(service)]
    next(cycle[0])
    with caplog.at_level(logging.WARNING):
        if how == "closed":
            cycle[0].close()
        if how == "collected":
            cycle.append(cycle)
        del cycle
        gc.collect()
        assert service.pool_stats().pool_in_use == 0
        service.create_user(username="generated2")
    assert names() == ["generated2"]
    assert any("dropped before its end" in record.getMessage() for record in caplog.records)


def test_a_block_may_be_collected_while_the_pool_is_locked(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """The garbage collector may close a transaction block while the pool's lock is held."""
    generator = generate(service)
    next(generator)
    done = threading.Event()

    def collect() -> None:
        with service._database._pool._lock, service.metrics.writer._lock:
            generator.close()
        done.set()

    threading.Thread(target=collect, daemon=True).start()
    assert done.wait(stretch(10))
    service.create_user(username="alice")
    assert names() == ["alice"]


def test_a_context_keeps_no_object_of_a_block_alive(service: EnhancedDatabaseService) -> None:
    """A context that outlives a transaction block keeps no object of the block's function alive."""

    class Large:
        """A local object of the function that opens the transaction block."""

    def work() -> tuple[contextvars.Context, weakref.ref[Large]]:
        large = Large()
        with service.transaction():
            service.search_users("a")
            return contextvars.copy_context(), weakref.ref(large)

    with ThreadPoolExecutor(1) as pool:
        context, reference = pool.submit(work).result(60)
    gc.collect()
    assert reference() is None
    assert context.run(service.search_users, "a") == ()


def test_services_do_not_share_blocks(
    service: EnhancedDatabaseService, settings: Settings, names: Callable[[], list[str]]
) -> None:
    """Calls of another service do not belong to a transaction block, in whatever order blocks end."""
    with open_service(settings) as other:
        with pytest.raises(LookupError), service.transaction():
            service.create_user(username="alice")
            with other.transaction():
                other.create_user(username="bob")
            other.create_user(username="charlie")
            raise LookupError("undo")
        first, second = service.transaction(), other.transaction()
        first.__enter__()
        second.__enter__()
        service.create_user(username="dave")
        other.create_user(username="erin")
        first.__exit__(None, None, None)
        assert names() == ["bob", "charlie", "dave"]
        other.create_user(username="frank")
        second.__exit__(None, None, None)
    assert names() == ["bob", "charlie", "dave", "erin", "frank"]


# -- audited blocks and streams -----------------------------------------------------------


def test_an_audited_block_may_await_and_change_threads(service: EnhancedDatabaseService, run: Run) -> None:
    """An audited block may await and change threads: each of its two events is a separate transaction."""

    async def act(name: str) -> None:
        with service.audited(actor=name, action="warm_cache", target="all"):
            await asyncio.sleep(0)
            await asyncio.to_thread(service.search_users, "a")

    async def work() -> None:
        await asyncio.gather(act("alice"), act("bob"))
        block = service.audited(actor="charlie", action="warm_cache", target="all")
        await asyncio.to_thread(block.__enter__)
        await asyncio.to_thread(block.__exit__, None, None, None)

    run(work)
    outcomes = {event.actor: event.outcome for event in service.list_audit_events()}
    assert outcomes == {"alice": "done", "bob": "done", "charlie": "done"}


def test_another_thread_may_continue_a_stream(
    service: EnhancedDatabaseService, alice: User, bob: User
) -> None:
    """Another thread may continue a stream, but not a stream that was opened in a transaction."""
    for score, user in enumerate((alice, bob)):
        service.update_leaderboard_entry(user.id, "b", score)  # type: ignore[arg-type]  # a whole number
    stream = service.stream_leaderboard("b")
    with ThreadPoolExecutor(1) as pool:
        assert [pool.submit(next, stream).result(60).username for _ in range(2)] == ["bob", "alice"]
    with service.transaction():
        service.delete_user(bob.id)
        assert [entry.username for entry in service.stream_leaderboard("b")] == ["alice"]
        inside = service.stream_leaderboard("b")
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(contextvars.copy_context().run, next, inside).exception(60)
            assert isinstance(error, TransactionMisused)
    with pytest.raises(UserNotFound):
        service.get_user_by_id(bob.id)
