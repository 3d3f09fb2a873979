"""During and after an outage of PostgreSQL or Redis the dashboard's server updates every open page."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.TextInput_pb2 import TextInput

from core import EnhancedDatabaseService, Settings
from core.testing import PostgresServer, ValkeyServer
from tests.bench.dashboard.visitor import Visitor
from tests.dashboard_process import Dashboard, run_dashboard
from tests.faults.proxy import Proxy, run_proxy
from tests.game import play_game
from tests.market import open_market
from tests.patience import stretch

NOTE = b"Last known values of"
BYPASS = b"the cache is not used"
PAGES = {"": "", "leaderboards": "", "portfolios": "player=alice", "market": "symbol=IBM", "quests": ""}
UPDATE_SECONDS = 5.0


@pytest.fixture
def proxies(postgres_server: PostgresServer, valkey_server: ValkeyServer) -> Iterator[dict[str, Proxy]]:
    """Yield proxies to PostgreSQL and to Redis, which a test can block."""
    redis_port = urlsplit(valkey_server.url).port
    assert redis_port is not None
    with run_proxy(postgres_server.port) as database, run_proxy(redis_port) as cache:
        yield {"database": database, "cache": cache}
        for proxy in (database, cache):
            proxy.accept_again()
            proxy.resume()


@pytest.fixture
def dashboard(
    service: EnhancedDatabaseService, settings: Settings, proxies: dict[str, Proxy], tmp_path: Path
) -> Iterator[Dashboard]:
    """Yield a dashboard process on a small game, connected through the proxies."""
    play_game(service)
    open_market(service)
    assert settings.redis_password is not None
    with run_dashboard(
        tmp_path,
        DATABASE_URL=replace_port(proxies["database"], settings.database_url.get_secret_value()),
        REDIS_URL=replace_port(proxies["cache"], settings.redis_url.get_secret_value()),
        REDIS_PASSWORD=settings.redis_password.get_secret_value(),
    ) as dashboard:
        yield dashboard


def replace_port(proxy: Proxy, url: str) -> str:
    """Return a URL with the port of the proxy."""
    return re.sub(r":\d+/", f":{proxy.port}/", url)


async def wait_for_updates(visitors: list[Visitor], matches: Callable[[bytes], bool]) -> None:
    """Wait until the server has sent every open page a run that matches. No browser asks for the run."""

    async def wait(visitor: Visitor) -> None:
        while not matches(await visitor.receive_run()):
            pass

    async with asyncio.timeout(stretch(UPDATE_SECONDS)):
        await asyncio.gather(*(wait(visitor) for visitor in visitors))


@pytest.mark.parametrize("fault", ["gone", "hanging"])
@pytest.mark.parametrize(("server", "note"), [("database", NOTE), ("cache", BYPASS)])
def test_open_pages_are_updated_on_outage_and_recovery(
    dashboard: Dashboard, proxies: dict[str, Proxy], server: str, note: bytes, fault: str
) -> None:
    """Open pages show a note within 5 s of the start of an outage, and remove it within 5 s of its end."""
    proxy = proxies[server]
    begin, end = (proxy.refuse, proxy.accept_again) if fault == "gone" else (proxy.pause, proxy.resume)

    async def open_pages() -> None:
        async with AsyncExitStack() as stack:
            visitors = []
            for page, query in PAGES.items():
                visitors.append(await stack.enter_async_context(Visitor.connected(dashboard.url)))
                await visitors[-1].run(page=page, query=query)
            begin()
            await wait_for_updates(visitors, lambda sent: note in sent)
            end()
            await wait_for_updates(visitors, lambda sent: note not in sent)

    asyncio.run(open_pages())


def find_search(messages: list[bytes]) -> TextInput:
    """Return the player search box among the messages to the browser."""
    inputs = (ForwardMsg.FromString(message).delta.new_element.text_input for message in messages)
    found: TextInput = next(box for box in inputs if box.label == "Find a player")
    return found


def test_an_update_keeps_what_was_typed(dashboard: Dashboard, proxies: dict[str, Proxy]) -> None:
    """An update of the page keeps the text typed in the search box, although the URL has the older value."""
    proxy, page, query = proxies["database"], "portfolios", "player=alice"

    async def open_pages() -> None:
        async with Visitor.connected(dashboard.url) as visitor:
            await visitor.begin(page=page, query=query)
            search = find_search(await visitor.receive_messages())
            assert (search.value, search.set_value) == ("alice", True)
            await visitor.begin(page=page, query=query, texts={search.id: "bob"})
            assert b"Bob Example" in await visitor.receive_run()
            for begin, noted in ((proxy.refuse, True), (proxy.accept_again, False)):
                begin()
                is_updated = False
                async with asyncio.timeout(stretch(UPDATE_SECONDS)):
                    while not is_updated:
                        messages = await visitor.receive_messages()
                        sent = b"".join(messages)
                        assert not find_search(messages).set_value
                        assert b"Alice Example" not in sent
                        assert b"player=alice" not in sent
                        is_updated = (NOTE in sent) == noted

    asyncio.run(open_pages())
