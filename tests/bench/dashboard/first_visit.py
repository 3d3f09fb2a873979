"""`python -m tests.bench.dashboard.first_visit`: measure the first visit of the overview on a slow network.

Owns the network log of the browser, and the times until the first text, the first figure and the whole page
are drawn. Each turn has a browser context with an empty cache. The game is small, so that most of the bytes
are scripts.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
from playwright.sync_api import Browser

from tests.bench.dashboard.__main__ import describe_settings
from tests.bench.dashboard.server import run_server
from tests.bench.servers import run_servers
from tests.end_to_end.browsing import run_browser, wait_until_complete
from tests.game import open_database, play_game

BYTES_PER_SECOND = 50_000
LATENCY_MS = 300
WAIT_MS = 180_000
FIRST_TEXT = "Loading. The first visit"


class Visit(NamedTuple):
    """The seconds until the first text, the first figure and the whole page are drawn; the bytes by URL."""

    text_seconds: float
    figure_seconds: float
    complete_seconds: float
    sizes: dict[str, int]


@click.command()
@click.option("--turns", default=3, show_default=True)
@click.option("--files", is_flag=True, help="Also print the size of each file.")
def main(turns: int, files: bool) -> None:  # noqa: FBT001  # an option of the command line
    """Start servers and measure first visits."""
    with run_servers() as settings, tempfile.TemporaryDirectory(prefix="echo-markets-bench-") as name:
        with open_database(settings.database_url.get_secret_value()) as service:
            play_game(service)
        with run_server(Path(name), describe_settings(settings)) as server, run_browser() as browser:
            visits = [visit_first(browser, server.url) for _ in range(turns)]
    sizes = visits[-1].sizes
    click.echo(
        f"text {_median(visits, 'text_seconds'):.1f} s, figure {_median(visits, 'figure_seconds'):.1f} s,"
        f" complete {_median(visits, 'complete_seconds'):.1f} s,"
        f" {sum(sizes.values()) / 1000:.0f} kB in {len(sizes)} files"
    )
    for path, size in sorted(sizes.items(), key=lambda item: -item[1]) if files else ():
        click.echo(f"  {size:7} {path}")


def visit_first(browser: Browser, url: str) -> Visit:
    """Load the overview in a browser with an empty cache."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    network = context.new_cdp_session(page)
    sizes: dict[str, int] = {}
    urls: dict[str, str] = {}

    def record_url(event: dict[str, Any]) -> None:
        urls[event["requestId"]] = event["request"]["url"].removeprefix(url)

    def record_size(event: dict[str, Any]) -> None:
        url_path = urls[event["requestId"]]
        sizes[url_path] = sizes.get(url_path, 0) + int(event["encodedDataLength"])

    network.on("Network.requestWillBeSent", record_url)
    network.on("Network.loadingFinished", record_size)
    network.send("Network.enable")
    network.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": LATENCY_MS,
            "downloadThroughput": BYTES_PER_SECOND,
            "uploadThroughput": BYTES_PER_SECOND,
        },
    )
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.get_by_text(FIRST_TEXT).wait_for()
    text_seconds = time.perf_counter() - started
    page.locator("[data-testid=stMetricValue]").first.wait_for()
    figure_seconds = time.perf_counter() - started
    wait_until_complete(page)
    complete_seconds = time.perf_counter() - started
    context.close()
    return Visit(
        text_seconds,
        figure_seconds,
        complete_seconds,
        {path: size for path, size in sizes.items() if path != "/livez"},
    )


def _median(visits: list[Visit], figure: str) -> float:
    return float(statistics.median(getattr(visit, figure) for visit in visits))


if __name__ == "__main__":
    main()
