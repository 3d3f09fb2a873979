"""The sampler thread of the dashboard: samples, errors, its end, and a fork."""

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
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the thread sample a hundred times a second."""
    for name in ("CHECK_SECONDS", "SCRAPE_SECONDS", "TROUBLE_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)


@pytest.fixture
def sampler(short_intervals: None, service: EnhancedDatabaseService) -> Iterator[Sampler]:
    """Yield a running sampler whose exporter does not exist."""
    sampler = Sampler(service, exporter_url=closed_url())
    sampler.start()
    yield sampler
    sampler.close(5)


def wait_for_samples(sampler: Sampler, count: int = 1) -> None:
    """Wait until the sampler has published `count` more samples."""
    for _ in range(count):
        before, pause = sampler.latest, threading.Event()
        for _ in range(round(stretch(5) / 0.01)):
            if sampler.latest is not before:
                break
            pause.wait(0.01)
        assert sampler.latest is not before


def test_the_thread_samples_and_stops(sampler: Sampler) -> None:
    """After `start` the thread takes samples. After `close` it has ended."""
    wait_for_samples(sampler, 3)
    assert sampler.is_current
    sampler.close(5)
    last = sampler.latest
    assert not any(thread.name == "sampler" for thread in threading.enumerate())
    assert sampler.latest is last


def test_the_thread_survives_an_error(
    sampler: Sampler, service: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of the service the thread takes further samples."""
    wait_for_samples(sampler)
    with monkeypatch.context() as patch:
        failed = threading.Event()

        def fail() -> None:
            failed.set()
            raise RuntimeError("a bad moment")

        patch.setattr(service, "health", fail)
        assert failed.wait(stretch(5))
    wait_for_samples(sampler, 2)


def test_a_sample_without_an_exporter_has_an_error(settings: Settings, short_intervals: None) -> None:
    """Without Redis and without an exporter, a sample has no metrics and an error that says so."""
    without_redis = settings.model_copy(update={"enable_redis_cache": False})
    with open_service(without_redis) as service:
        sampler = Sampler(service, exporter_url=closed_url(), prometheus=None)
        sampler.sample()
    assert sampler.latest is not None
    assert sampler.latest.metrics is None
    assert sampler.latest.error == "The exporter cannot be read: Connection refused."


def test_a_forked_child_has_no_thread_and_a_free_lock(
    sampler: Sampler, service: EnhancedDatabaseService
) -> None:
    """A child forked during a sample has no sampler thread, and its sampling lock is free."""
    wait_for_samples(sampler)
    with sampler._sampling:  # as if the parent were taking a sample
        child = os.fork()
        if child == 0:
            is_free = sampler._sampling.acquire(blocking=False)
            has_thread = sampler._thread is not None
            os._exit(0 if is_free and not has_thread else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_rate_is_calls_per_second(service: EnhancedDatabaseService) -> None:
    """Twelve calls within 60 s give a rate of 0.2 calls per second."""
    clock = [0.0]
    with served(build_app(service)) as port:
        sampler = Sampler(service, exporter_url=f"http://127.0.0.1:{port}", clock=lambda: clock[0])
        sampler.sample()
        for number in range(12):
            service.create_user(username=f"player_{number}")
        clock[0] = 60.0
        sampler.sample()
    assert sampler.latest is not None
    assert sampler.latest.metrics is not None
    assert sampler.latest.metrics.values[OPERATION_CALLS]["create_user",] == pytest.approx(12 / 60)
