"""`CollectorRunner`, which runs the exporter's collectors of one server in one thread."""

import threading
import time
from collections.abc import Iterable, Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from exporter.collectors.runner import Collector, CollectorRunner, Outcome, ServerAway
from tests.patience import stretch, wait_until


class Server:
    """A fake server; `is_up` and `answers` make it refuse or hang, and `requests` counts its requests."""

    def __init__(self) -> None:
        self.is_up = True
        self.answers = threading.Event()
        self.answers.set()
        self.connections: list[Connection] = []
        self.requests = 0

    def connect(self) -> "Connection":
        """Return a new connection; raise `OSError` if the server is down."""
        self.answers.wait(30)
        if not self.is_up:
            raise OSError("refused")
        self.connections.append(Connection(self))
        return self.connections[-1]


class Connection:
    """A connection to the fake server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_open = True

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open."""
        return self.is_open

    def ping(self) -> bool:
        """Return whether the connection is open and the server is up."""
        self.server.answers.wait(30)
        return self.is_open and self.server.is_up

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False

    def collect(self) -> Iterator[Metric]:
        """Yield the server's only metric, the number of its requests."""
        self.server.answers.wait(30)
        self.server.requests += 1
        yield GaugeMetricFamily("echo_requests", "Requests", value=self.server.requests)


def fail(_: Connection) -> Iterable[Metric]:
    """Yield one metric, then raise an error."""
    yield GaugeMetricFamily("echo_half", "Half", value=1)
    raise RuntimeError("broken")


def lose(connection: Connection) -> Iterable[Metric]:
    """Close the connection and raise `OSError`, as when a server goes away."""
    connection.close()
    raise OSError("lost")


@pytest.fixture
def server() -> Iterator[Server]:
    """Yield a server; at the end release the threads that wait for it."""
    server = Server()
    yield server
    server.answers.set()


def scrape(runner: CollectorRunner[Connection], seconds: float = 10.0) -> dict[str, Outcome]:
    """Run the collectors as a scrape does; return their outcomes by name."""
    runner.start()
    return {outcome.name: outcome for outcome in runner.wait(time.monotonic() + seconds)}


def list_threads() -> list[threading.Thread]:
    """Return the threads of all runners."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("collect")]


def test_a_failed_collector_does_not_affect_the_others(server: Server) -> None:
    """A failed collector has no metrics, not even those before its error; the other collectors succeed."""
    runner = CollectorRunner(
        server.connect,
        [
            Collector("before", Connection.collect, 0),
            Collector("bad", fail, 0),
            Collector("after", Connection.collect, 0),
        ],
    )
    found = scrape(runner)
    assert [found[name].is_success for name in ("before", "bad", "after")] == [True, False, True]
    assert (found["bad"].families, found["bad"].succeeded_at) == ((), None)
    assert found["after"].families[0].samples[0].value == 2
    assert found["after"].succeeded_at == pytest.approx(time.time(), abs=10)
    assert len(server.connections) == 1


def test_a_lost_connection_fails_the_later_collectors(server: Server) -> None:
    """After a lost connection the later collectors of a scrape fail; the next scrape opens a connection."""
    collectors = [Collector("bad", lose, 0), Collector("after", Connection.collect, 0)]
    runner = CollectorRunner(server.connect, collectors)
    found = scrape(runner)
    assert not any(outcome.is_success for outcome in found.values())
    assert len(server.connections) == 1
    scrape(runner)
    assert len(server.connections) == 2


def test_a_closed_connection_is_replaced(server: Server) -> None:
    """A connection that was closed between two scrapes is replaced, and the collector succeeds."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.collect, 0)])
    assert scrape(runner)["one"].is_success
    server.connections[0].close()
    assert scrape(runner)["one"].is_success


def test_a_collector_recovers_with_its_server(server: Server) -> None:
    """A failed collector keeps the time of its last success, and succeeds when the server is up again."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.collect, 0)])
    first = scrape(runner)["one"]
    server.is_up = False
    down = scrape(runner)["one"]
    assert (down.is_success, down.families, down.succeeded_at) == (False, (), first.succeeded_at)
    server.is_up = True
    assert scrape(runner)["one"].is_success


def test_a_server_that_hangs_costs_one_thread_and_the_deadline(server: Server) -> None:
    """Scrapes of a server that hangs end at the deadline, use one thread, and return the kept outcomes."""
    runner = CollectorRunner(
        server.connect, [Collector("slow", Connection.collect, 60), Collector("quick", Connection.collect, 0)]
    )
    assert scrape(runner)["slow"].is_success
    server.answers.clear()
    before = len(list_threads())
    for _ in range(5):
        started = time.monotonic()
        found = scrape(runner, 0.1)
        assert time.monotonic() - started < stretch(1)
        assert (found["slow"].is_success, found["quick"].is_success) == (True, False)
        assert found["quick"].families == ()
    assert len(list_threads()) == before + 1
    assert found["quick"].seconds >= 0.3
    server.answers.set()
    assert scrape(runner)["quick"].is_success


def test_an_outcome_is_kept_for_its_interval(server: Server) -> None:
    """Within a collector's interval a second scrape returns the first outcome without a request."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.collect, 60)])
    first, second = scrape(runner)["one"], scrape(runner)["one"]
    assert first == second
    assert server.requests == 1


def test_a_failure_is_not_kept(server: Server) -> None:
    """A failed collector runs again at the next scrape, even within its interval."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.collect, 60)])
    server.is_up = False
    assert not scrape(runner)["one"].is_success
    server.is_up = True
    assert scrape(runner)["one"].is_success


def test_simultaneous_scrapes_share_a_run(server: Server) -> None:
    """Ten simultaneous scrapes run the collector once."""
    runner = CollectorRunner(server.connect, [Collector("one", Connection.collect, 60)])
    server.answers.clear()
    found: list[Outcome] = []
    scrapers = [threading.Thread(target=lambda: found.append(scrape(runner)["one"])) for _ in range(10)]
    for thread in scrapers:
        thread.start()
    server.answers.set()
    for thread in scrapers:
        thread.join()
    assert {outcome.is_success for outcome in found} == {True}
    assert server.requests == 1


def test_close_closes_idle_and_busy_connections(server: Server) -> None:
    """`close` closes an idle connection at once and a busy one after its run; no later scrape runs."""
    idle, busy = (
        CollectorRunner(server.connect, [Collector("one", Connection.collect, 0)]) for _ in range(2)
    )
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
    requests = server.requests
    scrape(busy, 0.05)
    assert server.requests == requests


def test_a_server_that_is_away_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """`ServerAway` is logged in one line without a traceback; another error has a traceback."""

    def connect() -> Connection:
        raise ServerAway("Connection refused")

    runner = CollectorRunner(connect, [Collector("requests", Connection.collect, 0.0)])
    scrape(runner)
    [record] = caplog.records
    assert (record.getMessage(), record.exc_info) == ("requests cannot connect: Connection refused", None)
    server = Server()
    server.is_up = False
    caplog.clear()
    scrape(CollectorRunner(server.connect, [Collector("requests", Connection.collect, 0.0)]))
    [record] = caplog.records
    assert record.exc_info
