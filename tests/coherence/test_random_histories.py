"""Random histories of real processes: reads, writes, rollbacks, deletions and faults, checked.

COHERENCE_EXAMPLES and COHERENCE_STEPS make it longer; COHERENCE_SEED tries other histories.
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
    """A game that three processes play at once."""

    fleet: Fleet
    # how often each tier answered and each outcome came about, in all histories
    seen: Counter[str] = Counter()  # noqa: RUF012  # shared on purpose: hypothesis makes the instances

    def __init__(self) -> None:
        super().__init__()
        self.game: Game
        self._versions: dict[str, int] = {}

    @initialize()
    def start(self) -> None:
        """Begin with a fresh game, every near cache open."""
        self.fleet.wait_until_used()
        self.game = self.fleet.start_game(PLAYERS)
        self._versions = {f"{field}:{place}": 1 for place in range(PLAYERS) for field in FIELDS}

    # -- rules --------------------------------------------------------------------------

    @rule(process=st.integers(0, PROCESSES - 1), pick=st.integers(0, 99))
    def read(self, process: int, pick: int) -> None:
        """One process reads something."""
        self.fleet[process].call(*self._reading(random.Random(pick)))

    @rule(register=st.integers(0, PLAYERS * len(FIELDS) - 1))
    def write(self, register: int) -> None:
        """A register's own writer writes it."""
        name = sorted(self._versions)[register]
        self.fleet[self._writer_of(name)].call("write", self.game, self._next([name]))

    @rule(process=st.integers(0, PROCESSES - 1), count=st.integers(2, 4), is_undone=st.booleans())
    def write_together(self, process: int, count: int, *, is_undone: bool) -> None:
        """Several registers of one writer change in one transaction, or are rolled back."""
        own = [name for name in sorted(self._versions) if self._writer_of(name) == process][:count]
        self.fleet[process].call("write", self.game, self._next(own), is_undone)

    @rule(seed=st.integers(0, 10_000))
    def rush(self, seed: int) -> None:
        """All processes work at one moment, two threads each."""
        self.fleet.run(self._draw_scripts(random.Random(seed)))

    @rule(seed=st.integers(0, 10_000))
    def rush_while_redis_hangs(self, seed: int) -> None:
        """The same while Redis answers nobody."""
        with self.fleet.stopped_redis():
            self.fleet.run(self._draw_scripts(random.Random(seed), length=3))

    @rule(seed=st.integers(0, 10_000))
    def rush_while_feeds_are_cut(self, seed: int) -> None:
        """The same while the near caches lose their feeds."""
        self.fleet.cut_feeds()
        self.fleet.run(self._draw_scripts(random.Random(seed)))

    @rule(process=st.integers(0, PROCESSES - 1))
    def lose_an_answer(self, process: int) -> None:
        """A COMMIT happens and its answer is lost."""
        own = [name for name in sorted(self._versions) if self._writer_of(name) == process]
        self.fleet[process].call("lose_next_answer")
        self.fleet[process].call("write", self.game, self._next(own[:1]))

    @rule(is_all=st.booleans(), pick=st.integers(0, 99))
    def delete(self, pick: int, *, is_all: bool) -> None:
        """A third party deletes one key or all."""
        keys = sorted(self.fleet.redis.scan_iter())
        if is_all:
            self.fleet.redis.flushall()
        elif keys:
            self.fleet.redis.delete(keys[pick % len(keys)])

    @rule(pick=st.integers(0, 99))
    def stampede(self, pick: int) -> None:
        """Everybody wants the same cold value at one moment: it is loaded once."""
        self.fleet.wait_until_used()
        self.fleet.redis.flushall()
        for member in self.fleet.members:
            member.call("forget_near")
        self.fleet.run([[[self._reading(random.Random(pick))]] * THREADS] * PROCESSES)
        loads = [key for member in self.fleet.members for key in member.call("take_loads")]
        assert len(loads) == len(set(loads)), f"loaded more than once: {loads}"

    def teardown(self) -> None:
        """Check the history."""
        if hasattr(self, "game"):
            self.fleet.wait_until_used()
            for process in range(PROCESSES):
                for place in range(PLAYERS):
                    self.fleet[process].call("read", self.game, "user", place)
                self.fleet[process].call("read", self.game, "board", 50)
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
        """Return the one process that writes a register; a key has registers of several."""
        field, _, place = register.partition(":")
        return (FIELDS.index(field) + int(place)) % PROCESSES

    def _next(self, registers: list[str]) -> dict[str, int]:
        for register in registers:
            self._versions[register] += 1
        return {register: self._versions[register] for register in registers}

    def _reading(self, draw: random.Random) -> Step:
        what = draw.choice(("user", "user", "board", "board", "portfolio", "market"))
        argument = {
            "user": draw.randrange(PLAYERS),
            "portfolio": draw.randrange(PLAYERS),
            "board": draw.choice((1, 5, 50)),
            "market": draw.choice((None, (0,), (0, 1))),
        }[what]
        return ("read", self.game, what, argument)

    def _draw_scripts(self, draw: random.Random, length: int = 8) -> list[list[list[Step]]]:
        """Draw what each process does: its first thread reads and writes, the others read."""
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
    """No read is older than what was acknowledged before it, and none was never written."""
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
                # a history is not the same twice, so it cannot be made smaller
                phases=[Phase.generate],
            ),
        )
    print(dict(Histories.seen))  # noqa: T201  # shown by pytest -s and with a failure
    assert set(Histories.seen) == {"near", "shared", "acknowledged", "refused", "unknown"}, "all was tried"
