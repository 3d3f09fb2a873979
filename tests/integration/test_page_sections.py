"""Sections of a page while the database, or one read, fails: run by Streamlit against a real server."""

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
"""Patience, one health check, and the time of a page; far below the query timeout of 30 s."""


@pytest.fixture(autouse=True)
def _checked_health(monkeypatch: pytest.MonkeyPatch, released_pages: None) -> None:
    """Check the health in every run."""
    monkeypatch.setattr(section_reads, "CHECK_SECONDS", 0.0)


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    """The way to PostgreSQL, which a test can block."""
    with run_proxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def game(
    settings: Settings, postgres_server: PostgresServer, proxy: Proxy
) -> Iterator[EnhancedDatabaseService]:
    """The pages on a small game behind the proxy; without a cache and the default query timeout."""
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
    """Return how many sections show last known values."""
    return read_text(page).count(NOTE)


def test_every_section_keeps_its_values_while_the_database_is_away(
    game: EnhancedDatabaseService, proxy: Proxy
) -> None:
    """Figures and tables stay, also for a visitor who just came; all is well as soon as it is back."""
    page = open_page(OVERVIEW)
    figures, tables = read_metrics(page), [table.value.to_json() for table in page.dataframe]
    assert figures
    assert count_notes(page) == 0
    proxy.refuse()
    for stranded in (page.run(), open_page(OVERVIEW)):
        assert not stranded.exception
        assert not stranded.warning
        assert read_metrics(stranded) == figures
        assert [table.value.to_json() for table in stranded.dataframe] == tables
        assert count_notes(stranded) >= 4
        assert "the database does not answer; next try in 5 s" in read_text(stranded)
    proxy.accept_again()
    # the service keeps a verdict on its health for two seconds
    time.sleep(section_reads.PATIENCE_SECONDS * 2)
    assert count_notes(page.run()) == 0


def test_a_part_that_could_not_be_read_is_not_as_of_now(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notes of its sections say how old their values are; other parts of the page have their age."""
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


def test_a_hanging_database_delays_a_page_once(game: EnhancedDatabaseService, proxy: Proxy) -> None:
    """Until the health check says so; sections do not add up their waiting times."""
    figures = read_metrics(open_page(OVERVIEW))
    proxy.pause()
    started = time.monotonic()
    page = open_page(OVERVIEW)
    first_seconds = time.monotonic() - started
    assert read_metrics(page) == figures
    assert count_notes(page) >= 4
    assert first_seconds < HANGING_SECONDS


def test_a_section_fails_alone(game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a last known value the error takes its place; with one it is shown, under an error id."""

    def give_up(*_: object, **__: object) -> None:
        raise QueryTimeout("a statement ran too long")

    with monkeypatch.context() as broken:
        broken.setattr(game, "list_market_events", give_up)
        page = open_page(OVERVIEW)
    # the events of the day, and their marks in a chart
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
def test_a_search_fails_alone(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    """The reports above stay; the search says what happened, or shows what it knew."""
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
