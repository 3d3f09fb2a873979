"""Load the dashboard with simulated visitors without a browser.

Owns which pages the visitors open, and how often. The figures come from the visitors, from the connection
pool of the server and from its process. There is no pass or fail.
"""

import asyncio
import random
import time
from typing import NamedTuple

from tests.bench.dashboard.server import Server
from tests.bench.dashboard.visitor import Run, Visitor

RUNS_PER_SESSION = 5
"""Number of runs after which a visitor reloads the page, which starts a new session."""

SETTLE_SECONDS = 150.0
"""How long the memory may take to shrink: Streamlit keeps closed sessions for two minutes."""

VANISH_SECONDS = 10.0
VANISHING = 50
CPU_RUNS = 200
PORTFOLIO_SHARE = 0.3
LEADERBOARDS_PAGE = "leaderboards"


class Crowd(NamedTuple):
    """The result of a load by many visitors; memory in bytes, times in seconds."""

    runs: list[Run]
    errors: list[str]
    seconds: float
    processor: float
    most_in_use: int
    in_use_afterwards: int
    timeouts: int
    memory_before: int
    memory_with: int
    memory_after: int


class Load:
    """The runs and errors of all visitors of one dashboard."""

    def __init__(self, url: str, *, players: int, seed: int) -> None:
        self._url = url
        self.runs: list[Run] = []
        self.errors: list[str] = []
        self._players = players
        self._random = random.Random(seed)

    def choose_page(self) -> tuple[str, str]:
        """Return a random page and its query: a leaderboard, or in 30 % of cases a portfolio."""
        if self._random.random() < PORTFOLIO_SHARE:
            return "portfolios", f"player=player{self._random.randint(1, self._players)}"
        return LEADERBOARDS_PAGE, self._random.choice(
            ("", "category=Total+value", "top=100", "category=Quests+completed")
        )

    async def visit(self, *, until: float, delay: float) -> None:
        """Run a page every second; begin a new session after `RUNS_PER_SESSION` runs; record errors."""
        await asyncio.sleep(delay)
        while time.monotonic() < until:
            try:
                async with Visitor.connected(self._url) as visitor:
                    page, query = self.choose_page()
                    for _ in range(RUNS_PER_SESSION):
                        started = time.monotonic()
                        if started >= until:
                            return
                        self._record(await visitor.run(page=page, query=query))
                        await asyncio.sleep(max(0.0, started + 1 - time.monotonic()))
            except (OSError, TimeoutError, EOFError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            except Exception as error:  # websockets raises many different errors when a connection ends
                self.errors.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(1)

    async def run_some(self, count: int) -> None:
        """Open `count` random pages, one after the other."""
        for _ in range(count):
            async with Visitor.connected(self._url) as visitor:
                page, query = self.choose_page()
                await visitor.run(page=page, query=query)

    def _record(self, run: Run) -> None:
        self.runs.append(run)
        if run.problem is not None:
            self.errors.append(run.problem)


def load_with_crowd(server: Server, *, visitors: int, seconds: float, players: int, seed: int = 1) -> Crowd:
    """Let visitors run a page every second, disconnect them, and wait until the memory has shrunk."""
    load = Load(server.url, players=players, seed=seed)
    # warm up, because memory that the first visits allocate is kept and does not belong to a session
    asyncio.run(load.run_some(20))
    load.runs.clear()
    memory_before, processor_before = server.memory_bytes(), server.cpu_seconds()
    in_use, seconds_taken = asyncio.run(_crowd(server, load, visitors=visitors, seconds=seconds))
    memory_with, processor = server.memory_bytes(), server.cpu_seconds() - processor_before
    server.wait_until_idle(VANISH_SECONDS)
    left = int(server.pool()["pool_in_use"])
    return Crowd(
        runs=load.runs,
        errors=load.errors,
        seconds=seconds_taken,
        processor=processor,
        most_in_use=in_use,
        in_use_afterwards=left,
        timeouts=server.log.read_text().count("PoolTimeout"),
        memory_before=memory_before,
        memory_with=memory_with,
        memory_after=_wait_for_memory(server, memory_before),
    )


async def _crowd(server: Server, load: Load, *, visitors: int, seconds: float) -> tuple[int, float]:
    started = time.monotonic()
    until = started + seconds
    tasks = [
        asyncio.create_task(load.visit(until=until, delay=number / visitors)) for number in range(visitors)
    ]
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, int(server.pool()["pool_in_use"]))
        await asyncio.sleep(0.2)
    return most, time.monotonic() - started


def _wait_for_memory(server: Server, before: int) -> int:
    """Wait until the memory is at most 5 % above `before`, or for `SETTLE_SECONDS`; return the memory."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while server.memory_bytes() > 1.05 * before and time.monotonic() < deadline:
        time.sleep(1)
    return server.memory_bytes()


def measure_processor(server: Server, *, page: str) -> float:
    """Return the mean CPU seconds of the server for one run of a page in an open session."""
    return asyncio.run(_measure_processor(server, page))


async def _measure_processor(server: Server, page: str) -> float:
    async with Visitor.connected(server.url) as visitor:
        for _ in range(20):
            await visitor.run(page=page)
        before = server.cpu_seconds()
        for _ in range(CPU_RUNS):
            await visitor.run(page=page)
        return (server.cpu_seconds() - before) / CPU_RUNS


def drop_visitors(server: Server) -> int:
    """Open 50 sessions, drop them during a run, and return the connections that stay checked out."""
    asyncio.run(_drop_visitors(server))
    server.wait_until_idle(VANISH_SECONDS)
    return int(server.pool()["pool_in_use"])


async def _drop_visitors(server: Server) -> None:
    async def connect_and_vanish(number: int) -> None:
        async with Visitor.connected(server.url) as visitor:
            await visitor.begin(page=LEADERBOARDS_PAGE, query=f"top={(10, 25, 50, 100)[number % 4]}")
            # some connections end before the script has begun, others while it runs
            await asyncio.sleep(number % 10 / 50)
            visitor.vanish()

    results = await asyncio.gather(*(connect_and_vanish(n) for n in range(VANISHING)), return_exceptions=True)
    # visitors drop their own connections, so other errors are expected; a refused connection is a failure
    if any(isinstance(result, ConnectionRefusedError) for result in results):
        raise RuntimeError(f"not every visitor could connect to {server.url}")
