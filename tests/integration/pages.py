"""Opens pages of the dashboard in Streamlit's own test runner, and reads what they show."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from dashboard.navigation import SCRIPTS

SCRIPT = Path(__file__).parents[2] / "dashboard" / "app.py"
OVERVIEW, MARKET, QUESTS = (SCRIPTS[page] for page in ("overview", "market", "quests"))
FOLDED = ("sessions-table", "days-table", "retention-table")
"""The parts of pages that are closed at first."""
TIMEOUT_SECONDS = 30


def open_page(page: str, /, **parameters: str) -> AppTest:
    """Open a page with query parameters in the address, and its folded parts too, and run it."""
    test = prepare_page(page, **parameters)
    for key in FOLDED:
        test.session_state[key] = True
    return test.run()


def prepare_page(page: str, /, **parameters: str) -> AppTest:
    """Return a page with query parameters in the address as somebody finds it who opens it, not yet run."""
    test = AppTest.from_file(str(SCRIPT), default_timeout=TIMEOUT_SECONDS)
    if page != OVERVIEW:
        test.run()
        test.switch_page(page)
    for name, value in parameters.items():
        test.query_params[name] = value
    return test


def read_text(test: AppTest) -> str:
    """Return all text of a page."""
    parts = [*test.title, *test.header, *test.subheader, *test.markdown, *test.caption]
    return "\n".join(str(part.value) for part in [*parts, *test.warning, *test.info, *test.code])


def read_metrics(test: AppTest) -> dict[str, str]:
    """Return the figures of a page by label; of two with one label, the last."""
    return {metric.label: metric.value for metric in test.metric}


def find_price(test: AppTest, symbol: str) -> str:
    """Return the last price of the symbol of the Market page."""
    [price] = [metric.value for metric in test.metric if metric.label.startswith(f"{symbol} at ")]
    return str(price)
