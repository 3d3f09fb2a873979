"""Hostile query parameters of every page, every download and the exporter.

A page reports an invalid parameter or ignores it. A download returns a file, or status 400 with a short line.
No row is written.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

import dashboard
from core import EnhancedDatabaseService
from dashboard import runtime
from dashboard.navigation import SCRIPTS
from dashboard.pages.leaderboards import download as leaderboards
from dashboard.pages.players import download as players
from dashboard.pages.quests import download as quests
from exporter.server import build_app
from tests.conftest import Execute, read_row_versions
from tests.exporter_server import LOCAL_URL
from tests.game import play_game
from tests.hostile_values import TEXTS
from tests.integration.pages import open_page, read_text

# httpx, which the test client uses, accepts URLs up to 64 kB.
LARGE = 20_000
# Percent-encoded values, among them NUL, surrogates and bytes that are not UTF-8.
ENCODED = (
    "%00", "a%00b", "%ED%A0%80", "%FF%FE", "%E2%80%AE", "%0D%0AX-Header:%20a", "%", "%zz", "%25", "+",
    "a" * LARGE, "%F0%9F%92%A5" * 5_000, "9" * LARGE, "-9999999999999999999", "0001-01-01", "9999-12-31",
    "2013-02-30", "2013-W09-5", "20130301", "%D9%A1%D9%A2", "1_0", "+5", "1e3", "NaN", "true",
    "..%2F..%2Fetc%2Fpasswd", "%3Cscript%3E", "*", "null",
)  # fmt: skip  # several values a line, because the list is long
DOWNLOADS = {
    leaderboards.PATH: (
        leaderboards.get_leaderboard,
        {"category": "daily_returns", "day": "2013-03-01", "order": "rank", "sessions": "1", "find": "a"},
    ),
    players.SILENT_PATH: (
        players.get_silent,
        {"days": "30", "sessions": "0", "joined": "2013-02-25", "prefix": "a", "order": "last_active"},
    ),
    players.RETENTION_PATH: (players.get_retention, {"joined": "2013-02-25"}),
    quests.PATH: (quests.get_stuck, {"type": "trade"}),
}
MOST_LETTERS = 300
# The browser sends parameters to a page in a message whose strings are UTF-8.
FOR_PAGES = (
    "\x00\u202ea\n", "x" * 10_000, "9" * 5_000, "-1", "9999-12-31", "<b>[a](//b)</b>", "true",
)  # fmt: skip  # several values a line, because they are short


@pytest.fixture
def game(service: EnhancedDatabaseService, released_pages: None) -> EnhancedDatabaseService:
    """Return a service on a finished game, which the pages use."""
    play_game(service)
    runtime.set_service(service)
    return service


def list_queries(valid: dict[str, str]) -> Iterator[str]:
    """Yield query strings with one hostile or repeated parameter, and query strings without valid syntax."""
    for name, usual in valid.items():
        others = "&".join(f"{other}={value}" for other, value in valid.items() if other != name)
        for value in (*ENCODED, *(quote(text[:LARGE].encode(errors="surrogatepass")) for text in TEXTS)):
            if len(value) <= LARGE:
                yield f"{others}&{name}={value}"
        yield f"{others}&{name}=a&{name}={usual}"
    yield from (
        "",
        "&&&",
        "=",
        "=a",
        "a",
        "%00=%00",
        "a[]=1&a[b]=2",
        ";" * 1_000,
        "&".join("a=b" for _ in range(1_000)),
    )


@pytest.mark.parametrize("path", DOWNLOADS)
def test_every_query_of_a_download_is_answered(
    game: EnhancedDatabaseService, execute: Execute, path: str
) -> None:
    """A download answers every query with a file or with status 400 and one short line, and writes no row."""
    endpoint, valid = DOWNLOADS[path]
    before = read_row_versions(execute)
    wrong = []
    with TestClient(Starlette(routes=[Route(path, endpoint)]), raise_server_exceptions=False) as client:
        assert client.get(path, params=valid).status_code == 200
        for query in list_queries(valid):
            answer = client.get(f"{path}?{query}")
            is_line = len(answer.text) <= MOST_LETTERS and answer.text[:-1].isprintable()
            if answer.status_code != 200 and not (answer.status_code == 400 and is_line):
                wrong.append((query[-100:], f"{answer.status_code} {answer.text[:100]}"))
            if set(answer.headers) & {"x-header"}:
                wrong.append((query[-100:], "header"))
    assert not wrong
    assert read_row_versions(execute) == before


def list_parameters() -> list[str]:
    """Return the keys of all elements of the pages, which include the names of all query parameters."""
    sources = Path(dashboard.__file__).parent.rglob("*.py")
    return sorted(
        {name for source in sources for name in re.findall(r'key="(\w+)"', source.read_text("utf-8"))}
    )


@pytest.mark.parametrize("page", SCRIPTS)
def test_pages_open_with_hostile_parameters(
    game: EnhancedDatabaseService, execute: Execute, page: str
) -> None:
    """A page opens without an exception if all parameters have the same hostile value, and writes no row."""
    names = list_parameters()
    assert {"category", "day", "player", "symbol", "find"} <= set(names)
    before = read_row_versions(execute)
    for value in FOR_PAGES:
        opened = open_page(SCRIPTS[page], **dict.fromkeys(names, value))
        assert not opened.exception, value[:40]
        assert "our mistake" not in read_text(opened), value[:40]
    assert read_row_versions(execute) == before


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/health/database", "/livez", "/readyz"])
def test_the_exporter_ignores_query_parameters(game: EnhancedDatabaseService, path: str) -> None:
    """Every path of the exporter answers 200 if the query string is hostile."""
    with TestClient(build_app(game), base_url=LOCAL_URL) as client:
        for value in ("%00", "%ED%A0%80", "a" * LARGE, "%0D%0AX-Header:a"):
            answer = client.get(f"{path}?name[]={value}&{value}")
            assert answer.status_code == 200
            assert "x-header" not in answer.headers
