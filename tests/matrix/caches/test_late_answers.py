"""Redis that answers late, hangs or closes connections: how long callers wait, and what is an outage."""

import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from core.cache.leases_and_fences import RELEASE
from core.settings.texts import LOOPBACK
from tests.faults.proxy import Proxy, run_proxy
from tests.matrix.caches.cache_pair import CachePair, make_settings
from tests.matrix.caches.servers import RedisServer
from tests.patience import stretch, wait_until


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    """Yield a proxy in front of the server."""
    with run_proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def pair(proxy: Proxy) -> Iterator[CachePair]:
    """Yield two processes behind the proxy; the reader has no near cache, so each of its reads asks Redis."""
    url = f"redis://{LOOPBACK}:{proxy.port}"
    with CachePair(make_settings(url), reader=make_settings(url, near=0)) as pair:
        pair.warm()
        yield pair


def test_one_late_reply_is_no_outage(pair: CachePair, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """A late reply delays one call; the circuit breaker stays closed and the next calls use the cache."""
    changes: list[bool] = []
    for cache in (pair.writer, pair.reader):
        assert cache._shared is not None
        cache._shared.guard.breaker._on_change = changes.append
    for _ in range(3):
        proxy.pause()
        assert pair.read() == pair.rows["alice"]
        proxy.resume()
        assert pair.reader.stats().state == "enabled"
        wait_until(pair.both_use_cache, "both use the cache", 1.0)
    assert changes == []
    assert "bypassed" not in caplog.text


def test_a_late_invalidation_is_sent_again_before_a_read(pair: CachePair, proxy: Proxy) -> None:
    """An invalidation whose reply is late is sent again before the writer reads from Redis."""
    for _ in range(3):
        proxy.pause()
        written = pair.write()
        proxy.resume()
        assert pair.read(cache=pair.writer) == written
        wait_until(pair.both_use_cache, "both use the cache", 2.0)
        assert pair.read(cache=pair.writer) == pair.read() == written


def test_a_server_that_hangs_costs_each_caller_one_timeout(pair: CachePair, server: RedisServer) -> None:
    """When Redis hangs, simultaneous callers wait together for one timeout, and later callers do not wait."""
    waited: list[float] = []

    def read() -> None:
        started = time.monotonic()
        pair.read()
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
        # the time of a database read; a timeout is more than ten times as long
        assert statistics.median(waited) < stretch(0.02)
        assert first < stretch(1.0)


def test_an_outage_ends_when_the_server_answers(
    pair: CachePair, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The circuit breaker closes within 3 s after the server answers again, although no caller uses Redis."""
    with server.hung():
        pair.read()
        assert pair.reader.stats().state == "enabled", "one late reply is no outage"
        wait_until(lambda: pair.reader.stats().state == "down", "the breaker is open", 2.0)
        assert "no answer within 250 ms" in (pair.reader.stats().reason or "")
    wait_until(lambda: pair.reader.stats().state == "enabled", "the breaker is closed", 3.0)
    assert pair.reader.stats().reason is None
    pair.assert_recovered()
    lines = [line for line in caplog.messages if "Redis bypassed" in line]
    assert len(lines) <= 2, "one for each process"


def test_closed_connections_are_no_outage(
    pair: CachePair, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections that a proxy closes are replaced: reads are not stale, and no outage is reported."""
    for _ in range(3):
        proxy.sever()
        assert pair.find_stale(3) == []
        wait_until(pair.both_use_cache, "both use the cache", 1.0)
    assert "bypassed" not in caplog.text


def test_a_connection_closed_in_its_handshake_is_no_outage(
    pair: CachePair, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is closed during its handshake is replaced, and no outage is reported."""
    for _ in range(3):
        closed: list[bytes] = []

        def close_at_hello(data: bytes, closed: list[bytes] = closed) -> tuple[bytes, bytes]:
            if b"HELLO" in data and not closed:
                closed.append(data)
                proxy.sever()
                return b"", b""
            return data, b""

        proxy.sever()
        proxy.script = close_at_hello
        assert pair.find_stale(3) == []
        assert closed
        proxy.script = None
        wait_until(pair.both_use_cache, "both use the cache", 2.0)
    assert "bypassed" not in caplog.text


@pytest.mark.parametrize("is_sent", [True, False])
def test_an_invalidation_on_a_closed_connection_is_sent_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture, *, is_sent: bool
) -> None:
    """If a connection closes while an invalidation is sent, it is sent again on another connection."""
    with run_proxy(server.port) as proxy:
        url = f"redis://{LOOPBACK}:{proxy.port}"
        with CachePair(make_settings(url), reader=make_settings(server.url(), near=0)) as pair:
            pair.warm()
            for _ in range(5):
                closed: list[bytes] = []

                def close_once(data: bytes, closed: list[bytes] = closed) -> tuple[bytes, bytes]:
                    if RELEASE.sha.encode() in data and not closed:
                        closed.append(data)
                        if not is_sent:
                            proxy.sever()
                            return b"", b""
                    return data, b""

                def close_after_sent(data: bytes, closed: list[bytes] = closed) -> None:
                    if closed and data is closed[0]:
                        proxy.sever()

                proxy.script, proxy.after_sent = close_once, close_after_sent
                written = pair.write()
                assert closed
                assert pair.read() == written
                proxy.script = proxy.after_sent = None
                wait_until(pair.both_use_cache, "both use the cache", 2.0)
    assert "bypassed" not in caplog.text


def test_closing_logs_unsent_invalidations(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Closing the cache logs how many keys were not invalidated, and the server's refusal or the timeout."""
    for change, words in (
        (("CONFIG", "SET", "min-replicas-to-write", 1), "NOREPLICAS"),
        (("CLIENT", "PAUSE", 60_000, "WRITE"), "no answer within 250 ms"),
    ):
        with CachePair(make_settings(server.url())) as pair:
            pair.warm()
            server.run(*change)
            pair.write()
            pair.write("bob")
        server.run("CLIENT", "UNPAUSE")
        server.run("CONFIG", "SET", "min-replicas-to-write", 0)
        [line] = [line for line in caplog.messages if "may be stale" in line]
        assert line.startswith("2 keys may be stale in Redis until they expire: ")
        assert words in line
        caplog.clear()
        server.run("FLUSHALL")
