"""Random reads, writes, rollbacks, deletions and faults in real processes; the history is then checked.

COHERENCE_EXAMPLES is the number of histories and COHERENCE_STEPS the number of steps in each. If
COHERENCE_SEED is not set, every run has the same steps; if it is set to any value, each run has other steps.
"""

import os
import random
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from core import Settings
from core.testing import ValkeyServer
from tests.coherence.fleet import Fleet, run_fleet
from tests.coherence.history import Flushed, Read
from tests.coherence.registers import Game

PROCESSES = 3
PLAYERS = 2
THREADS = 2
FIELDS = ("name", "email", "username", "score", "value", "price")
EXAMPLES = int(os.environ.get("COHERENCE_EXAMPLES", "12"))
STEPS = int(os.environ.get("COHERENCE_STEPS", "14"))
IS_SEEDED = "COHERENCE_SEED" not in os.environ

Step = tuple[Any, ...]


class Histories(RuleBasedStateMachine):
    """Three processes that read and write the registers of one game; each rule is one step."""

    fleet: Fleet
    # number of reads by tier and of writes by outcome, in all histories
    seen: Counter[str] = Counter()  # noqa: RUF012  # shared on purpose: hypothesis creates the instances

    def __init__(self) -> None:
        super().__init__()
        self.game: Game
        self._versions: dict[str, int] = {}

    @initialize()
    def start(self) -> None:
        """Wait until every near cache serves, and create a new game."""
        self.fleet.wait_until_recovered()
        self.game = self.fleet.start_game(PLAYERS)
        self._versions = {f"{field}:{place}": 1 for place in range(PLAYERS) for field in FIELDS}

    # -- rules --------------------------------------------------------------------------

    @rule(process=st.integers(0, PROCESSES - 1), pick=st.integers(0, 99))
    def read(self, process: int, pick: int) -> None:
        """Read a random user, leaderboard, portfolio or market in one process."""
        self.fleet[process].call(*self._reading(random.Random(pick)))

    @rule(register=st.integers(0, PLAYERS * len(FIELDS) - 1))
    def write(self, register: int) -> None:
        """Write one register in the process that alone writes this register."""
        name = sorted(self._versions)[register]
        self.fleet[self._writer_of(name)].call("write", self.game, self._next([name]))

    @rule(process=st.integers(0, PROCESSES - 1), count=st.integers(2, 4), is_undone=st.booleans())
    def write_together(self, process: int, count: int, *, is_undone: bool) -> None:
        """Write several registers of one process in one transaction, and roll it back if `is_undone`."""
        own = [name for name in sorted(self._versions) if self._writer_of(name) == process][:count]
        self.fleet[process].call("write", self.game, self._next(own), is_undone)

    @rule(seed=st.integers(0, 10_000))
    def rush(self, seed: int) -> None:
        """Read and write in two threads of every process at once."""
        self.fleet.run(self._draw_scripts(random.Random(seed)))

    @rule(seed=st.integers(0, 10_000))
    def rush_while_redis_hangs(self, seed: int) -> None:
        """Read and write in all threads while Redis hangs."""
        with self.fleet.stopped_redis():
            self.fleet.run(self._draw_scripts(random.Random(seed), length=3))

    @rule(seed=st.integers(0, 10_000))
    def rush_while_feeds_are_cut(self, seed: int) -> None:
        """Read and write in all threads after the invalidation feeds of the near caches were cut."""
        self.fleet.cut_feeds()
        self.fleet.run(self._draw_scripts(random.Random(seed)))

    @rule(process=st.integers(0, PROCESSES - 1))
    def lose_an_answer(self, process: int) -> None:
        """Write one register whose COMMIT succeeds but whose reply is lost."""
        own = [name for name in sorted(self._versions) if self._writer_of(name) == process]
        self.fleet[process].call("lose_next_answer")
        self.fleet[process].call("write", self.game, self._next(own[:1]))

    @rule(is_all=st.booleans(), pick=st.integers(0, 99))
    def delete(self, pick: int, *, is_all: bool) -> None:
        """Delete one key or all keys in Redis, as another program would."""
        keys = sorted(self.fleet.redis.scan_iter())
        if is_all:
            self.fleet.redis.flushall()
        elif keys:
            self.fleet.redis.delete(keys[pick % len(keys)])

    @rule(pick=st.integers(0, 99))
    def stampede(self, pick: int) -> None:
        """Empty all caches, then read one value in all threads at once; each key must be loaded once."""
        self.fleet.wait_until_recovered()
        self.fleet.redis.flushall()
        for member in self.fleet.members:
            member.call("forget_near")
        self.fleet.run([[[self._reading(random.Random(pick))]] * THREADS] * PROCESSES)
        loads = [key for member in self.fleet.members for key in member.call("take_loads")]
        assert len(loads) == len(set(loads)), f"loaded more than once: {loads}"

    def teardown(self) -> None:
        """Read once more in every process, then check the whole history."""
        if hasattr(self, "game"):
            self.fleet.wait_until_recovered()
            for process in range(PROCESSES):
                for place in range(PLAYERS):
                    self.fleet[process].call("read", self.game, "user", place)
                self.fleet[process].call("read", self.game, "leaderboard", 50)
            history = self.fleet.take_history()
            self.seen.update(
                event.tier if isinstance(event, Read) else event.outcome
                for event in history.events
                if not isinstance(event, Flushed)
            )
            violations = history.find_violations()
            assert violations == [], "\n".join(violations)

    # -- drawing ------------------------------------------------------------------------

    @staticmethod
    def _writer_of(register: str) -> int:
        """Return the process that alone writes a register; registers of one key have different writers."""
        field, _, place = register.partition(":")
        return (FIELDS.index(field) + int(place)) % PROCESSES

    def _next(self, registers: list[str]) -> dict[str, int]:
        for register in registers:
            self._versions[register] += 1
        return {register: self._versions[register] for register in registers}

    def _reading(self, draw: random.Random) -> Step:
        what = draw.choice(("user", "user", "leaderboard", "leaderboard", "portfolio", "market"))
        argument = {
            "user": draw.randrange(PLAYERS),
            "portfolio": draw.randrange(PLAYERS),
            "leaderboard": draw.choice((1, 5, 50)),
            "market": draw.choice((None, (0,), (0, 1))),
        }[what]
        return ("read", self.game, what, argument)

    def _draw_scripts(self, draw: random.Random, length: int = 8) -> list[list[list[Step]]]:
        """Return random steps for each thread; only the first thread of a process also writes."""
        scripts: list[list[list[Step]]] = []
        for process in range(PROCESSES):
            own = [name for name in sorted(self._versions) if self._writer_of(name) == process]
            first: list[Step] = [
                ("write", self.game, self._next([draw.choice(own)]), draw.random() < 0.2)
                if draw.random() < 0.4
                else self._reading(draw)
                for _ in range(length)
            ]
            rest = [[self._reading(draw) for _ in range(length)] for _ in range(THREADS - 1)]
            scripts.append([first, *rest])
        return scripts


def test_random_histories_are_coherent(fleet_settings: Settings, fleet_valkey: ValkeyServer) -> None:
    """Every read returns a version that was written and is not older than an acknowledged write before it."""
    with run_fleet(fleet_settings, fleet_valkey, [None] * PROCESSES) as fleet:
        Histories.fleet = fleet
        run_state_machine_as_test(
            Histories,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=IS_SEEDED,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                # no shrinking: the processes run concurrently, so the same steps give another history
                phases=[Phase.generate],
            ),
        )
    print(dict(Histories.seen))  # noqa: T201  # shown by pytest -s and with a failure
    assert set(Histories.seen) == {"near", "shared", "acknowledged", "refused", "unknown"}, "all was tried"
