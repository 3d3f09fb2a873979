"""The sampler's thread: it starts, survives its servers and stops."""

import os
import threading
from collections.abc import Iterator

import pytest

from core import EnhancedDatabaseService, Settings, open_service
from dashboard.monitoring import sampler as module
from dashboard.monitoring.queries import OPERATION_CALLS
from dashboard.monitoring.sampler import Sampler
from exporter.server import build_app
from tests.exporter_server import served
from tests.integration.test_operations_page import closed_url
from tests.patience import stretch


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the thread sample a hundred times a second."""
    for name in ("CHECK_SECONDS", "SCRAPE_SECONDS", "TROUBLE_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)


@pytest.fixture
def sampler(quick: None, service: EnhancedDatabaseService) -> Iterator[Sampler]:
    """A sampler that runs, without an exporter."""
    running = Sampler(service, exporter_url=closed_url())
    running.start()
    yield running
    running.close(5)


def wait_for(sampler: Sampler, count: int = 1) -> None:
    """Wait until the sampler has published so many further readings."""
    for _ in range(count):
        before, pause = sampler.latest, threading.Event()
        for _ in range(round(stretch(5) / 0.01)):
            if sampler.latest is not before:
                break
            pause.wait(0.01)
        assert sampler.latest is not before


def test_it_samples_by_itself_and_stops(sampler: Sampler) -> None:
    """It samples after `start`, and not after `close`."""
    wait_for(sampler, 3)
    assert sampler.is_current
    sampler.close(5)
    last = sampler.latest
    assert not any(thread.name == "sampler" for thread in threading.enumerate())
    assert sampler.latest is last


def test_it_survives_a_service_that_fails(
    sampler: Sampler, service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is logged, and the next sample is tried."""
    wait_for(sampler)
    with monkeypatch.context() as patch:
        failed = threading.Event()

        def fail() -> None:
            failed.set()
            raise RuntimeError("a bad moment")

        patch.setattr(service, "health", fail)
        assert failed.wait(stretch(5))
    wait_for(sampler, 2)


def test_it_reads_all_servers_gone(settings: Settings, quick: None) -> None:
    """Without PostgreSQL, Redis and the exporter, a sample reports all three."""
    gone = settings.model_copy(update={"enable_redis_cache": False})
    with open_service(gone) as service:
        lonely = Sampler(service, exporter_url=closed_url(), prometheus=None)
        lonely.sample()
    assert lonely.latest is not None
    assert lonely.latest.metrics is None
    assert lonely.latest.error == "The exporter cannot be read: Connection refused."


def test_a_forked_child_has_no_thread_and_is_not_stuck(
    sampler: Sampler, service: EnhancedDatabaseService
) -> None:
    """Its locks are new, so that it can start to sample and stop."""
    wait_for(sampler)
    with sampler._sampling:  # the parent is in the middle of a sample
        child = os.fork()
        if child == 0:
            is_free = sampler._sampling.acquire(blocking=False)  # see above
            has_thread = sampler._thread is not None  # see above
            os._exit(0 if is_free and not has_thread else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_rates_are_what_the_service_counted(service: EnhancedDatabaseService) -> None:
    """The rates on the page equal those computed from the calls that were made."""
    clock = [0.0]
    with served(build_app(service)) as port:
        watching = Sampler(service, exporter_url=f"http://127.0.0.1:{port}", clock=lambda: clock[0])
        watching.sample()
        for number in range(12):
            service.create_user(username=f"player_{number}")
        clock[0] = 60.0
        watching.sample()
    assert watching.latest is not None
    assert watching.latest.metrics is not None
    assert watching.latest.metrics.values[OPERATION_CALLS]["create_user",] == pytest.approx(12 / 60)
