"""`python -m tests.coherence.kill_servers`: SIGKILL for the servers of the running containers during writes.

Run in a checkout whose `make up MODE=docker` is up. Threads write versions and read them, through two
services as two processes would have; meanwhile each server is killed with `docker kill -s KILL` and started
again. Exits with 1 when an acknowledged write is lost or a read is stale: in the service that wrote at once,
in the other one a second later, when its near cache has heard of the change. A fail-safe value, which the
other service serves while PostgreSQL is down and declares as old (`stale_seconds`), is counted apart.
"""

import subprocess
import sys
import threading
import time
import uuid
from itertools import count
from uuid import UUID

import click

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import EchoMarketsError

PLAYERS = 8
SERVERS = ("postgres", "redis")
DOWN_SECONDS = 2.0
HEARD_SECONDS = 1.0
HEAL_SECONDS = 60.0
LIMITS = {"database_pool_timeout": 5_000, "database_connect_timeout": 5_000}


class Ledger:
    """What was acknowledged of one player, and when; one thread writes, others read."""

    def __init__(self, user_id: UUID) -> None:
        self.user_id = user_id
        self.begun = 0
        self.acknowledged = [(float("-inf"), 0)]

    def find_acknowledged(self, *, at: float) -> int:
        """Return the newest version that was acknowledged before a moment."""
        return next(version for moment, version in reversed(self.acknowledged) if moment <= at)


class Run:
    """The threads of one run, and what they found."""

    def __init__(self, writer: EnhancedDatabaseService, other: EnhancedDatabaseService) -> None:
        names = [f"kill-{uuid.uuid4().hex[:12]}" for _ in range(PLAYERS)]
        self.ledgers = [Ledger(writer.create_user(username=name, name="0").id) for name in names]
        self.counts = dict.fromkeys(("writes", "reads", "errors", "declared old"), 0)
        self.wrong: list[str] = []
        self._writer, self._other = writer, other
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def write(self, ledger: Ledger) -> None:
        """Write one version after the other."""
        for version in count(1):
            if self._stopping.is_set():
                return
            ledger.begun = version
            try:
                self._writer.update_user_profile(ledger.user_id, name=str(version))
            except EchoMarketsError:
                # it may have been committed: what counts is what was acknowledged
                self._count("errors")
                continue
            ledger.acknowledged.append((time.monotonic(), version))
            self._count("writes")

    def read(self, service: EnhancedDatabaseService, *, heard_seconds: float) -> None:
        """Read every player again and again; note what is older than what the service must know."""
        while not self._stopping.is_set():
            for ledger in self.ledgers:
                expected = ledger.find_acknowledged(at=time.monotonic() - heard_seconds)
                try:
                    found = int(service.get_user_by_id(ledger.user_id).name or 0)
                except EchoMarketsError:
                    self._count("errors")
                    continue
                self._count("reads")
                # while PostgreSQL is down, a process that did not write serves what it knew last and says so
                is_declared = heard_seconds > 0 and service.stale_seconds() is not None
                if found < expected and is_declared:
                    self._count("declared old")
                elif found < expected:
                    self.wrong.append(f"stale: {found} after {expected} was acknowledged")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def work(self, seconds: float) -> None:
        """Write and read while the servers are killed, each for its part of the time."""
        readers = ((self._writer, 0.0), (self._other, HEARD_SECONDS))
        threads = [threading.Thread(target=self.write, args=(ledger,)) for ledger in self.ledgers]
        threads += [
            threading.Thread(target=self.read, args=(service,), kwargs={"heard_seconds": heard})
            for service, heard in readers
        ]
        for thread in threads:
            thread.start()
        try:
            for server in SERVERS:
                time.sleep(seconds / len(SERVERS) / 2)
                run_docker("kill", "-s", "KILL", server)
                time.sleep(DOWN_SECONDS)
                run_docker("start", server)
                time.sleep(max(0.0, seconds / len(SERVERS) / 2 - DOWN_SECONDS))
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()

    def check_end(self, fresh: EnhancedDatabaseService) -> None:
        """Compare what is stored, and what both services read, with what was acknowledged."""
        for ledger in self.ledgers:
            acknowledged = ledger.find_acknowledged(at=time.monotonic())
            stored = int(fresh.get_user_by_id(ledger.user_id).name or 0)
            if not acknowledged <= stored <= ledger.begun:
                self.wrong.append(f"lost: {stored} is stored, {acknowledged} was acknowledged")
            for service in (self._writer, self._other):
                found = int(service.get_user_by_id(ledger.user_id).name or 0)
                if found != stored:
                    self.wrong.append(f"stale at the end: {found} is read, {stored} is stored")

    def remove_players(self) -> None:
        """Leave the game as it was."""
        for ledger in self.ledgers:
            self._writer.delete_user(ledger.user_id)


def run_docker(*arguments: str) -> None:
    """Run `docker compose` in the checkout; the last argument is a service."""
    *command, service = arguments
    found = subprocess.run(
        ["docker", "compose", "ps", "--all", "--quiet", service], capture_output=True, text=True, check=True
    )
    subprocess.run(["docker", *command, found.stdout.strip()], capture_output=True, check=True)


def wait_until_healthy(service: EnhancedDatabaseService) -> float:
    """Return the seconds until database and cache serve again."""
    started = time.monotonic()
    # not the status of the whole, which a pending migration of the checkout degrades as well
    while (found := service.health()).database != "healthy" or found.redis != "healthy":
        if time.monotonic() - started > HEAL_SECONDS:
            raise SystemExit(f"not healthy within {HEAL_SECONDS:.0f} s: {found}")
        time.sleep(0.1)
    return time.monotonic() - started


@click.command()
@click.option("--seconds", type=click.FloatRange(min=10), default=60.0, show_default=True)
def main(seconds: float) -> None:
    """Kill PostgreSQL and Redis of the running containers while versions are written and read."""
    settings = Settings.load().model_copy(update=LIMITS)
    plain = settings.model_copy(update={"enable_redis_cache": False})
    with (
        open_service(settings) as writer,
        open_service(settings) as other,
        open_service(plain) as fresh,
    ):
        run = Run(writer, other)
        try:
            run.work(seconds)
            healed = wait_until_healthy(writer)
            run.check_end(fresh)
        finally:
            run.remove_players()
    counts = ", ".join(f"{number:,} {what}" for what, number in run.counts.items())
    click.echo(f"{counts} in {seconds:.0f} s; healthy {healed:.1f} s after the last start")
    for text in run.wrong[:10]:
        click.echo(text)
    click.echo(f"{len(run.wrong)} wrong")
    sys.exit(int(bool(run.wrong)))


if __name__ == "__main__":
    main()
