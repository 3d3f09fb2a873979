"""Whose transaction a call is part of: tasks, threads of pools, dependencies that yield, generators.

The threads and event loops are real. A transaction that cannot be right is refused with the
remedy; what reports success is stored, and no connection is left in a transaction.
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
    """Run a coroutine function on each kind of event loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(work: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await work()

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    return run


@pytest.fixture
def names(execute: Execute) -> Callable[[], list[str]]:
    """Return the usernames that are stored, in order."""
    return lambda: [name for (name,) in execute("SELECT username FROM users ORDER BY 1")]


def wait_for_rest(service: EnhancedDatabaseService, execute: Execute) -> bool:
    """Say whether nothing is left open within seconds, without another checkout."""
    deadline = time.monotonic() + stretch(5)
    while execute(IN_TRANSACTION) != [(0,)] or service.pool_stats().pool_in_use:
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


@pytest.fixture
def expect_rest(service: EnhancedDatabaseService, execute: Execute) -> Iterator[None]:
    """Assert after a test that nothing is left open."""
    yield
    assert wait_for_rest(service, execute)


pytestmark = pytest.mark.usefixtures("expect_rest")


async def try_to(work: Awaitable[Any]) -> bool:
    """Say whether a coroutine succeeds; only errors of `core` may say that it does not."""
    try:
        await work
    except EchoMarketsError:
        return False
    return True


# -- event loops ----------------------------------------------------------------------


def test_what_two_coroutines_report_is_what_is_stored(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """Each writes in a transaction, lets the other run, and writes again; one of them fails."""

    async def work() -> tuple[bool, bool]:
        async def write(name: str, *, fails: bool) -> None:
            with service.transaction():
                service.create_user(username=name)
                await asyncio.sleep(0)
                service.create_user(username=f"{name}2")
                await asyncio.sleep(0)
                if fails:
                    service.create_user(username=name)

        return await asyncio.gather(try_to(write("alice", fails=True)), try_to(write("bob", fails=False)))

    alice, bob = run(work)
    assert not alice
    assert names() == (["bob", "bob2"] if bob else [])


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_block_that_awaits_is_refused_with_the_remedy(
    service: EnhancedDatabaseService, run: Run, alice: User, execute: Execute, order: str
) -> None:
    """It is rolled back before another task of the thread could wait for its locks."""

    async def work() -> None:
        go = asyncio.Event()

        async def other() -> None:
            try:
                service.update_user_profile(alice.id, name="Other")
                assert wait_for_rest(service, execute)
            finally:
                go.set()

        if order == "before":
            task = asyncio.create_task(other())
        with pytest.raises(TransactionMisused, match=REMEDY) as caught, service.transaction():
            service.update_user_profile(alice.id, name="Block")
            if order == "after":
                task = asyncio.create_task(other(), context=contextvars.Context())
            await go.wait()
            service.create_user(username="bob")
        assert "process" not in str(caught.value)
        await task
        with pytest.raises(TransactionMisused, match=REMEDY), service.transaction():
            service.update_user_profile(alice.id, name="Block")
            await asyncio.sleep(0)
        service.create_user(username="charlie")

    began = time.monotonic()
    run(work)
    assert time.monotonic() - began < stretch(10), "a task waited for a lock of another"
    assert execute("SELECT username, name FROM users ORDER BY 1") == [("alice", "Other"), ("charlie", None)]


def test_an_error_of_a_block_that_awaits_is_the_callers_own(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """The error of the block itself is raised, because its transaction is rolled back anyway."""

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
    """This includes a coroutine that does not wait for anything, and nested blocks."""

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


def test_whole_blocks_run_in_threads(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """Many blocks at once on reused threads are each committed or rolled back."""

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
def test_calls_elsewhere_are_not_half_in_a_block(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]], how: str
) -> None:
    """A write or read in the block's context on another thread or task is refused."""
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


def test_a_task_that_outlives_the_block_is_on_its_own(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """It was created inside and runs after the end: its calls are independent of the block."""

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


def test_a_block_that_is_left_open_ends_with_the_turn_of_its_task(
    service: EnhancedDatabaseService,
    run: Run,
    names: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A callback, or a task that returns, entered it: it is rolled back and logged."""
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


def test_async_dependencies_are_refused_only_where_they_wait(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """An asynchronous generator around a handler works until one of them awaits."""

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
    """Return the `run` of another event loop, which gives each task a turn in a context of its own."""
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
    exec(code, names)  # it is ours; its frames are known by the name of the module
    loop: Callable[..., None] = names["run"]
    return loop


class Turn:
    """Lets the other tasks of such a loop run."""

    def __await__(self) -> Generator[None]:
        """Give the turn away once."""
        yield


def test_tasks_of_other_event_loops_have_transactions_of_their_own(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """Interleaved on one thread, each is committed or rolled back by itself."""

    def build(name: str, *, fails: bool) -> Callable[[], Awaitable[None]]:
        async def write() -> None:
            try:
                with service.transaction():
                    service.create_user(username=name)
                    await Turn()
                    service.create_user(username=f"{name}2")
                    await Turn()
                    if fails:
                        raise LookupError("undo")  # noqa: TRY301  # leaves the transaction, as a caller's error does
            except LookupError:
                assert fails

        return write

    make_loop()(build("alice", fails=False), build("bob", fails=True), build("charlie", fails=False))
    assert names() == ["alice", "alice2", "charlie", "charlie2"]


# -- frameworks that move between threads ----------------------------------------------


@contextmanager
def depend(service: EnhancedDatabaseService) -> Iterator[None]:
    """Give a transaction to an endpoint, as a FastAPI dependency with yield would."""
    with service.transaction():
        yield


async def serve(dependency: Any, endpoint: Callable[[], Any]) -> Any:
    """Run an endpoint with a dependency on worker threads, as FastAPI does; see its `Depends`."""
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
    """Eight failing requests leave nothing open and store nothing; the next write is fast."""
    ready = threading.Barrier(8)

    def endpoint(name: str) -> None:
        service.create_user(username=name)
        ready.wait(10)
        raise LookupError("fails")

    async def work() -> list[Any]:
        requests = (serve(depend(service), lambda n=n: endpoint(f"user{n}")) for n in range(8))  # type: ignore[misc]  # a default
        return await asyncio.gather(*requests, return_exceptions=True)

    for answer in run(work):
        assert isinstance(answer, TransactionMisused)
        assert "asyncio.to_thread(function)" in str(answer)
    assert wait_for_rest(service, execute)
    began = time.monotonic()
    service.create_user(username="alice")
    assert time.monotonic() - began < stretch(1)
    assert names() == ["alice"]


def test_blocks_inside_endpoints_work(
    service: EnhancedDatabaseService, run: Run, names: Callable[[], list[str]]
) -> None:
    """The documentation recommends this form for FastAPI."""

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
    """A context manager that hides the block from whoever enters it."""

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
    """Where entering cannot be refused, the block ends with the function that entered it."""

    async def work() -> None:
        with pytest.raises(TransactionMisused, match=REMEDY):
            await serve(Dependency(service), lambda: service.create_user(username="alice"))

    run(work)
    assert names() == ["alice"]


# -- threads --------------------------------------------------------------------------


class Worker:
    """A thread of a program's own that runs what it is given, one after another."""

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
        """Return what `work` returns there, or the error."""
        self._work.put(work)
        return self._answers.get(timeout=60)

    def end(self) -> None:
        """End the thread."""
        self._work.put(None)
        self._thread.join(10)


@pytest.fixture
def workers() -> Iterator[tuple[Worker, Worker]]:
    """Two threads."""
    made = Worker("first"), Worker("second")
    yield made
    for worker in made:
        worker.end()


def test_a_block_that_another_thread_leaves_is_rolled_back(
    service: EnhancedDatabaseService, workers: tuple[Worker, Worker], names: Callable[[], list[str]]
) -> None:
    """The error names both threads; later calls of the first one are stored."""
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


def test_an_error_on_one_thread_says_nothing_of_another(
    service: EnhancedDatabaseService, workers: tuple[Worker, Worker], names: Callable[[], list[str]]
) -> None:
    """A thread without the block's context has independent calls."""
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
    """The other thread cannot take part in the transaction."""
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


def test_a_pool_does_not_enter_a_block_by_itself(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """Its thread would run other functions while the block is open."""
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
    """Yield inside of a block."""
    with service.transaction():
        service.create_user(username="generated")
        yield 1
        service.create_user(username="generated2")


def test_a_thread_that_is_used_again_does_not_join_an_earlier_block(
    service: EnhancedDatabaseService, names: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A block that a function left open is rolled back and logged; later writes are stored."""
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
def test_what_is_left_open_is_rolled_back_without_another_call(
    service: EnhancedDatabaseService, execute: Execute, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without any other call its locks are released, and a line says why."""
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
        # waits for the lock of the row, until it is released
        execute("UPDATE users SET name = 'Other' WHERE id = %s", (alice.id,))
    assert service.get_user_by_id(alice.id).name in {None, "Other"}
    assert any("forgetful" in record.getMessage() for record in caplog.records)
    with pytest.raises(TransactionMisused):
        kept[0].__exit__(None, None, None)


# -- one thread ------------------------------------------------------------------------


def test_blocks_may_be_held_by_a_stack(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """It is entered in one function and left in another, as in set-up and tear-down."""
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
    """On one thread it is one transaction, whatever the context."""
    assert list(generate(service)) == [1]
    assert names() == ["generated", "generated2"]
    other = generate(service)
    with pytest.raises(EchoMarketsError):
        # the same names again
        contextvars.copy_context().run(next, other)
    assert names() == ["generated", "generated2"]


def test_contexts_of_one_thread_share_its_block(
    service: EnhancedDatabaseService, names: Callable[[], list[str]]
) -> None:
    """Nothing else runs meanwhile, so a call in another context is part of the transaction."""
    generator = generate(service)
    contextvars.copy_context().run(next, generator)
    contextvars.Context().run(service.create_user, username="alice")
    assert names() == []
    assert list(contextvars.copy_context().run(list, generator)) == []
    assert names() == ["alice", "generated", "generated2"]


@pytest.mark.parametrize("how", ["closed", "dropped", "collected"])
def test_a_generator_that_is_dropped_is_rolled_back(
    service: EnhancedDatabaseService,
    names: Callable[[], list[str]],
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its writes are gone, the next call of the thread works, and a line says so."""
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
    """The garbage collector may run anywhere, also where a check-in would wait for a lock."""
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


def test_a_context_that_lives_on_keeps_nothing_of_a_block(service: EnhancedDatabaseService) -> None:
    """A task created inside may run forever; connection and holder of the block are freed."""

    class Large:
        """Something that a function has."""

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
    """Calls of another service are not part of a block, in whatever order blocks are left."""
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


# -- what lies around a transaction -------------------------------------------------------


def test_an_audited_block_may_await_and_change_threads(service: EnhancedDatabaseService, run: Run) -> None:
    """Its two events are separate transactions."""

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


def test_a_stream_goes_on_in_other_threads(service: EnhancedDatabaseService, alice: User, bob: User) -> None:
    """Each part is a separate read; in a transaction only its own thread may read it."""
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
