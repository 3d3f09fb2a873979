"""A server that is late once, and one that hangs: who waits, what is said, and when it is over."""

import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from core.cache.leases_and_fences import RELEASE
from core.settings.texts import LOOPBACK
from tests.faults.proxy import Proxy, run_proxy
from tests.matrix.caches.couple import Couple, make_settings
from tests.matrix.caches.servers import RedisServer
from tests.patience import stretch, wait_until


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """The way to the server."""
    with run_proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def couple(proxy: Proxy) -> Iterator[Couple]:
    """Two processes behind the proxy; the reader has no near cache, so that each read asks the server."""
    url = f"redis://{LOOPBACK}:{proxy.port}"
    with Couple(make_settings(url), reader=make_settings(url, near=0)) as couple:
        couple.warm()
        yield couple


def test_one_late_answer_is_no_outage(couple: Couple, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """One call waits; no outage is reported, and the cache is used again at once."""
    told: list[bool] = []
    for cache in (couple.writer, couple.reader):
        assert cache._shared is not None
        cache._shared.guard.breaker._on_change = told.append
    for _ in range(3):
        proxy.pause()
        assert couple.read() == couple.rows["alice"]
        proxy.resume()
        assert couple.reader.stats().state == "enabled"
        wait_until(couple.is_used, "both use the cache", 1.0)
    assert told == []
    assert "bypassed" not in caplog.text


def test_a_late_invalidation_is_made_before_anything_is_read(couple: Couple, proxy: Proxy) -> None:
    """An invalidation that may have arrived is sent again before anything is read."""
    for _ in range(3):
        proxy.pause()
        written = couple.write()
        proxy.resume()
        assert couple.read(cache=couple.writer) == written
        wait_until(couple.is_used, "both use the cache", 2.0)
        assert couple.read(cache=couple.writer) == couple.read() == written


def test_a_server_that_hangs_costs_each_caller_one_timeout(couple: Couple, server: RedisServer) -> None:
    """Callers of that moment wait together; later callers do not wait."""
    waited: list[float] = []

    def read() -> None:
        started = time.monotonic()
        couple.read()
        waited.append(time.monotonic() - started)

    with server.hung():
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        first, waited = max(waited), []
        for _ in range(200):
            read()
        assert len(waited) == 200
        # a read of the database; one timeout is more than ten times as long
        assert statistics.median(waited) < stretch(0.02)
        assert first < stretch(1.0)


def test_an_outage_is_over_when_the_server_answers(
    couple: Couple, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of an outage is reported after some attempts, even if nobody calls meanwhile."""
    with server.hung():
        couple.read()
        assert couple.reader.stats().state == "enabled", "late once"
        wait_until(lambda: couple.reader.stats().state == "down", "it is an outage", 2.0)
        assert "no answer within 250 ms" in (couple.reader.stats().reason or "")
    wait_until(lambda: couple.reader.stats().state == "enabled", "it is over", 3.0)
    assert couple.reader.stats().reason is None
    couple.finish()
    lines = [line for line in caplog.messages if "Redis bypassed" in line]
    assert len(lines) <= 2, "once for each process"


def test_connections_that_are_cut_are_no_outage(
    couple: Couple, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Idle connections that a proxy or a restart ends are replaced, and no outage is reported."""
    for _ in range(3):
        proxy.sever()
        assert couple.find_stale(3) == []
        wait_until(couple.is_used, "both use the cache", 1.0)
    assert "bypassed" not in caplog.text


def test_a_connection_that_is_cut_in_its_handshake(
    couple: Couple, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is cut in its handshake is no outage either: the next one is accepted."""
    for _ in range(3):
        cut: list[bytes] = []

        def cut_greeting(data: bytes, cut: list[bytes] = cut) -> tuple[bytes, bytes]:
            if b"HELLO" in data and not cut:
                cut.append(data)
                proxy.sever()
                return b"", b""
            return data, b""

        proxy.sever()
        proxy.script = cut_greeting
        assert couple.find_stale(3) == []
        assert cut
        proxy.script = None
        wait_until(couple.is_used, "both use the cache", 2.0)
    assert "bypassed" not in caplog.text


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_connection_that_is_cut_under_an_invalidation(
    server: RedisServer, caplog: pytest.LogCaptureFixture, *, is_sent: bool
) -> None:
    """An invalidation that may not have arrived is sent on another connection at once."""
    with run_proxy(server.port) as proxy:
        url = f"redis://{LOOPBACK}:{proxy.port}"
        with Couple(make_settings(url), reader=make_settings(server.url(), near=0)) as couple:
            couple.warm()
            for _ in range(5):
                cut: list[bytes] = []

                def cut_once(data: bytes, cut: list[bytes] = cut) -> tuple[bytes, bytes]:
                    if RELEASE.sha.encode() in data and not cut:
                        cut.append(data)
                        if not is_sent:
                            proxy.sever()
                            return b"", b""
                    return data, b""

                def cut_later(data: bytes, cut: list[bytes] = cut) -> None:
                    if cut and data is cut[0]:
                        proxy.sever()

                proxy.script, proxy.after_sent = cut_once, cut_later
                written = couple.write()
                assert cut
                assert couple.read() == written
                proxy.script = proxy.after_sent = None
                wait_until(couple.is_used, "both use the cache", 2.0)
    assert "bypassed" not in caplog.text


def test_what_could_not_be_sent_is_named_at_the_end(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing names the invalidations that were not sent, and the reason, a refusal or silence."""
    for change, words in (
        (("CONFIG", "SET", "min-replicas-to-write", 1), "NOREPLICAS"),
        (("CLIENT", "PAUSE", 60_000, "WRITE"), "no answer within 250 ms"),
    ):
        with Couple(make_settings(server.url())) as couple:
            couple.warm()
            server.run(*change)
            couple.write()
            couple.write("bob")
        server.run("CLIENT", "UNPAUSE")
        server.run("CONFIG", "SET", "min-replicas-to-write", 0)
        [line] = [line for line in caplog.messages if "may be stale" in line]
        assert line.startswith("2 keys may be stale in Redis until they expire: ")
        assert words in line
        caplog.clear()
        server.run("FLUSHALL")
