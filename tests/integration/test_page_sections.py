"""Sections of a page while the database or a single read fails, run by Streamlit against a real server."""

import re
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import QueryTimeout
from core.testing import PostgresServer
from dashboard import runtime, section_reads
from tests.faults.proxy import Proxy, run_proxy
from tests.game import play_game
from tests.integration.pages import MARKET, OVERVIEW, QUESTS, open_page, read_metrics, read_text
from tests.market import open_market

NOTE = "Last known values of"
HANGING_SECONDS = 6.0
"""Upper bound: a section's wait, one health check and a page's run; far below the query timeout of 30 s."""


@pytest.fixture(autouse=True)
def _checked_health(monkeypatch: pytest.MonkeyPatch, released_pages: None) -> None:
    """Make the pages check the health in every run."""
    monkeypatch.setattr(section_reads, "CHECK_SECONDS", 0.0)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    """Yield a proxy to PostgreSQL, which a test can block."""
    with run_proxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def game(
    settings: Settings, postgres_server: PostgresServer, proxy: Proxy
) -> Iterator[EnhancedDatabaseService]:
    """Yield a service without caches on a small game, connected through the proxy, which the pages use."""
    url = settings.database_url.get_secret_value().replace(f":{postgres_server.port}/", f":{proxy.port}/")
    assert str(proxy.port) in url
    changed = {"database_url": SecretStr(url), "enable_redis_cache": False, "cache_failsafe": 0}
    with open_service(settings.model_copy(update=changed)) as service:
        play_game(service)
        open_market(service)
        runtime.set_service(service)
        yield service
        proxy.accept_again()
        proxy.resume()


def count_notes(page: AppTest) -> int:
    """Return the number of sections that show last known values."""
    return read_text(page).count(NOTE)


def test_sections_keep_their_values_while_the_database_is_down(
    game: EnhancedDatabaseService, proxy: Proxy
) -> None:
    """While the database is down, open and new pages show the last known values.

    The next run after the outage shows current values.
    """
    page = open_page(OVERVIEW)
    figures, tables = read_metrics(page), [table.value.to_json() for table in page.dataframe]
    assert figures
    assert count_notes(page) == 0
    proxy.refuse()
    for opened in (page.run(), open_page(OVERVIEW)):
        assert not opened.exception
        assert not opened.warning
        assert read_metrics(opened) == figures
        assert [table.value.to_json() for table in opened.dataframe] == tables
        assert count_notes(opened) >= 4
        assert "the database does not answer; next try in 5 s" in read_text(opened)
    proxy.accept_again()
    # the service caches its health for two seconds
    time.sleep(section_reads.SLOW_READ_SECONDS * 2)
    assert count_notes(page.run()) == 0


def test_a_failed_read_marks_only_its_section(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one read fails, its section shows last known values and other sections show their own time."""
    page = open_page(MARKET)
    assert "refreshes every 5 s" in read_text(page)
    assert "Refreshes every 5 s" not in read_text(page)

    def give_up(*_: object, **__: object) -> None:
        raise QueryTimeout("a statement ran too long")

    monkeypatch.setattr(game, "get_sparklines", give_up)
    text = read_text(page.run())
    assert count_notes(page) == 1
    assert "Refreshes every 5 s" in text
    assert len(re.findall(r"As of .* · refreshes every 30 s", text)) == 2


def test_a_hanging_database_delays_a_page_only_once(game: EnhancedDatabaseService, proxy: Proxy) -> None:
    """If the database hangs, a page opens within six seconds, because its sections do not wait one by one."""
    figures = read_metrics(open_page(OVERVIEW))
    proxy.pause()
    started = time.monotonic()
    page = open_page(OVERVIEW)
    first_seconds = time.monotonic() - started
    assert read_metrics(page) == figures
    assert count_notes(page) >= 4
    assert first_seconds < HANGING_SECONDS


def test_a_failing_section_leaves_the_others(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A section whose read fails shows its last known value with an error id.

    A section without a last known value shows the error.
    """

    def give_up(*_: object, **__: object) -> None:
        raise QueryTimeout("a statement ran too long")

    with monkeypatch.context() as broken:
        broken.setattr(game, "list_market_events", give_up)
        page = open_page(OVERVIEW)
    # the table of events and the chart that marks them
    failing = len(page.warning)
    assert {warning.value.partition(" Details")[0] for warning in page.warning} == {
        "The database took too long to answer. Choose a smaller view. Next try in 5 s."
    }
    assert "[alice](portfolios?player=alice" in read_text(page)
    assert count_notes(page) == 0
    assert not page.run().warning
    with monkeypatch.context() as broken:
        broken.setattr(game, "list_market_events", give_up)
        page.run()
    assert not page.warning
    assert count_notes(page) == failing
    assert "the database took too long to answer (error id" in read_text(page)


@pytest.mark.parametrize("typed", ["alice", "al"])
def test_a_failing_search_leaves_the_page(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    """If the player search fails, only the search shows the error; the next run works again."""
    assert not open_page(QUESTS).exception

    def give_up(*_: object, **__: object) -> None:
        raise QueryTimeout("a statement ran too long")

    with monkeypatch.context() as broken:
        broken.setattr(game, "get_user_quests", give_up)
        broken.setattr(game, "search_users", give_up)
        page = open_page(QUESTS, player=typed)
    assert not page.exception
    assert [warning.value.partition(" Details")[0] for warning in page.warning] == [
        "The database took too long to answer. Choose a smaller view. Use Refresh to try again."
    ]
    assert "Quests of one player" in read_text(page)
    assert "state-problem" not in read_text(page)
    assert not page.run().warning
