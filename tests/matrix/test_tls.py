"""Over TLS a closed connection is noticed as well, and what TLS itself sends is not taken for it."""

import threading
from collections.abc import Callable

from core import open_service
from tests.conftest import connected
from tests.matrix.conftest import Place, Variant

END = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""


def test_a_closed_connection_is_noticed_over_tls(make_place: Callable[[Variant], Place]) -> None:
    """The first write after it works; before that, no checkout cost a ping or a new connection."""
    place = make_place(Variant(is_debian=True, has_tls=True))
    with open_service(place.settings) as service, connected(place.administrator_url) as run:
        user = service.create_user(username="alice")
        assert run("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl")[0][0] >= 1
        for number in range(20):
            service.update_user_profile(user.id, name=f"name {number}")
            [entry] = service._database._pool._idle
            assert not entry.needs_ping(entry.idle_since, float("-inf"))
        assert service.pool_stats().connections_num == 1
        run(END)
        for _ in range(1_000):
            if run(END) == [(0,)]:
                break
            threading.Event().wait(0.01)
        service.update_user_profile(user.id, name="after")
        assert service.health().status == "healthy"
        stats = service.pool_stats()
    assert (stats.connections_num, stats.connections_lost) == (2, 1)
