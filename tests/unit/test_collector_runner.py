"""The runner of a server's collectors: isolated, bounded, one thread, results kept for an interval."""

import threading
import time
from collections.abc import Iterable, Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from exporter.collectors.runner import Collector, CollectorRunner, Outcome, ServerAway
from tests.patience import stretch, wait_until


class Server:
    """A server that a test breaks; counts what it is asked."""

    def __init__(self) -> None:
        self.is_up = True
        self.answers = threading.Event()
        self.answers.set()
        self.connections: list[Connection] = []
        self.asked = 0

    def connect(self) -> "Connection":
        """Connect, when it is up."""
        self.answers.wait(30)
        if not self.is_up:
            raise OSError("refused")
        self.connections.append(Connection(self))
        return self.connections[-1]


class Connection:
    """A connection to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_open = True

    @property
    def is_usable(self) -> bool:
        """Say whether it was not closed."""
        return self.is_open

    def ping(self) -> bool:
        """Say whether the server is still there."""
        self.server.answers.wait(30)
        return self.is_open and self.server.is_up

    def close(self) -> None:
        """Close it."""
        self.is_open = False

    def ask(self) -> Iterator[Metric]:
        """Ask the server for its only figure."""
        self.server.answers.wait(30)
        self.server.asked += 1
        yield GaugeMetricFamily("echo_asked", "Questions", value=self.server.asked)


def fail(_: Connection) -> Iterable[Metric]:
    """Fail in the middle."""
    yield GaugeMetricFamily("echo_half", "Half", value=1)
    raise RuntimeError("broken")


def lose(connection: Connection) -> Iterable[Metric]:
    """Fail because the connection is gone."""
    connection.close()
    raise OSError("lost")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server; whoever waits for it at the end is let go."""
    server = Server()
    yield server
    server.answers.set()


def scrape(runner: CollectorRunner[Connection], seconds: float = 10.0) -> dict[str, Outcome]:
    """Run the collectors as a scrape does."""
    runner.start()
    return {outcome.name: outcome for outcome in runner.wait(time.monotonic() + seconds)}


def threads() -> list[threading.Thread]:
    """Return the threads of all runners."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("collect")]


def test_one_that_fails_leaves_the_others_alone(server: Server) -> None:
    """The failed collector shows no metric at all, and has no time of a success."""
    runner = CollectorRunner(
        server.connect,
        [
            Collector("before", Connection.ask, 0),
            Collector("bad", fail, 0),
            Collector("after", Connection.ask, 0),
        ],
    )
    found = scrape(runner)
    assert [found[name].is_success for name in ("before", "bad", "after")] == [True, False, True]
    assert (found["bad"].families, found["bad"].succeeded_at) == ((), None)
    assert found["after"].families[0].samples[0].value == 2
    assert found["after"].succeeded_at == pytest.approx(time.time(), abs=10)
    assert len(server.connections) == 1


def test_a_lost_connection_fails_the_rest_at_once_and_is_replaced(server: Server) -> None:
    """The other collectors fail without another attempt; the next scrape opens a new connection."""
    collectors = [Collector("bad", lose, 0), Collector("after", Connection.ask, 0)]
    runner = CollectorRunner(server.connect, collectors)
    found = scrape(runner)
    assert not any(outcome.is_success for outcome in found.values())
    assert len(server.connections) == 1
    scrape(runner)
    assert len(server.connections) == 2


def test_a_restarted_server_is_not_noticed(server: Server) -> None:
    """A connection that died between two scrapes is replaced before a collector uses it."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.ask, 0)])
    assert scrape(runner)["one"].is_success
    server.connections[0].close()
    assert scrape(runner)["one"].is_success


def test_down_and_up_again(server: Server) -> None:
    """A failure keeps the time of the last success; the collector recovers without a restart."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.ask, 0)])
    first = scrape(runner)["one"]
    server.is_up = False
    down = scrape(runner)["one"]
    assert (down.is_success, down.families, down.succeeded_at) == (False, (), first.succeeded_at)
    server.is_up = True
    assert scrape(runner)["one"].is_success


def test_a_server_that_hangs_costs_one_thread_and_the_deadline(server: Server) -> None:
    """Collectors that finished before are shown; the one that hangs has failed at the deadline."""
    runner = CollectorRunner(
        server.connect, [Collector("slow", Connection.ask, 60), Collector("quick", Connection.ask, 0)]
    )
    assert scrape(runner)["slow"].is_success
    server.answers.clear()
    before = len(threads())
    for _ in range(5):
        started = time.monotonic()
        found = scrape(runner, 0.1)
        assert time.monotonic() - started < stretch(1)
        assert (found["slow"].is_success, found["quick"].is_success) == (True, False)
        assert found["quick"].families == ()
    assert len(threads()) == before + 1
    assert found["quick"].seconds >= 0.3
    server.answers.set()
    assert scrape(runner)["quick"].is_success


def test_what_was_found_is_kept_for_its_interval(server: Server) -> None:
    """Within the interval a second scrape runs no statement and shows the time of the first."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.ask, 60)])
    first, second = scrape(runner)["one"], scrape(runner)["one"]
    assert first == second
    assert server.asked == 1


def test_a_failure_is_not_kept(server: Server) -> None:
    """A failed collector runs again at the next scrape, whatever its interval."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.ask, 60)])
    server.is_up = False
    assert not scrape(runner)["one"].is_success
    server.is_up = True
    assert scrape(runner)["one"].is_success


def test_scrapes_at_once_share_a_run(server: Server) -> None:
    """Ten scrapes at the same time cause one run."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.ask, 60)])
    server.answers.clear()
    found: list[Outcome] = []
    scrapers = [threading.Thread(target=lambda: found.append(scrape(runner)["one"])) for _ in range(10)]
    for thread in scrapers:
        thread.start()
    server.answers.set()
    for thread in scrapers:
        thread.join()
    assert {outcome.is_success for outcome in found} == {True}
    assert server.asked == 1


def test_close_closes_the_connection_also_when_it_is_in_use(server: Server) -> None:
    """An idle connection is closed immediately, another one at the end of its run; no run follows."""
    idle, busy = (CollectorRunner(server.connect, [Collector("one", Connection.ask, 0)]) for _ in range(2))
    scrape(idle)
    idle.close()
    assert not server.connections[0].is_open
    scrape(busy)
    server.answers.clear()
    scrape(busy, 0.05)
    busy.close()
    assert server.connections[1].is_open
    server.answers.set()
    assert busy.wait(time.monotonic() + 10)
    wait_until(lambda: not server.connections[1].is_open, "the connection is closed", 10.0)
    asked = server.asked
    scrape(busy, 0.05)
    assert server.asked == asked


def test_a_server_that_is_away_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Why, without a traceback; an error of another kind has one."""

    def connect() -> Connection:
        raise ServerAway("Connection refused")

    runner = CollectorRunner(connect, [Collector("asked", Connection.ask, 0.0)])
    scrape(runner)
    [record] = caplog.records
    assert (record.getMessage(), record.exc_info) == ("asked cannot connect: Connection refused", None)
    server = Server()
    server.is_up = False
    caplog.clear()
    scrape(CollectorRunner(server.connect, [Collector("asked", Connection.ask, 0.0)]))
    [record] = caplog.records
    assert record.exc_info
