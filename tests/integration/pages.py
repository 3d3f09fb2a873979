"""Opens dashboard pages with Streamlit's `AppTest` and reads the texts that they show."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from dashboard.navigation import SCRIPTS

SCRIPT = Path(__file__).parents[2] / "dashboard" / "app.py"
OVERVIEW, MARKET, QUESTS = (SCRIPTS[page] for page in ("overview", "market", "quests"))
FOLDED = ("sessions-table", "days-table", "retention-table")
"""Keys of the collapsible sections that are closed when a page opens."""
TIMEOUT_SECONDS = 30


def open_page(page: str, /, **parameters: str) -> AppTest:
    """Open a page with these query parameters and with all `FOLDED` sections open, and run it."""
    test = prepare_page(page, **parameters)
    for key in FOLDED:
        test.session_state[key] = True
    return test.run()


def prepare_page(page: str, /, **parameters: str) -> AppTest:
    """Return a page with these query parameters and closed sections, which has not run yet."""
    test = AppTest.from_file(str(SCRIPT), default_timeout=TIMEOUT_SECONDS)
    if page != OVERVIEW:
        test.run()
        test.switch_page(page)
    for name, value in parameters.items():
        test.query_params[name] = value
    return test


def read_text(test: AppTest) -> str:
    """Return the texts of a page: titles, headings, Markdown, captions, notices and code."""
    parts = [*test.title, *test.header, *test.subheader, *test.markdown, *test.caption]
    return "\n".join(str(part.value) for part in [*parts, *test.warning, *test.info, *test.code])


def read_metrics(test: AppTest) -> dict[str, str]:
    """Return the value of each metric of a page by its label. If two share a label, the last one counts."""
    return {metric.label: metric.value for metric in test.metric}


def find_price(test: AppTest, symbol: str) -> str:
    """Return the last price that the Market page shows for a symbol."""
    [price] = [metric.value for metric in test.metric if metric.label.startswith(f"{symbol} at ")]
    return str(price)
