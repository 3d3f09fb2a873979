"""Every figure, chart and column of every page has a label, a text or a unit, in all scenarios."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Block, Element

from core import EnhancedDatabaseService
from dashboard.navigation import SCRIPTS
from dashboard.server import sign_in
from dashboard.server.access import Policy
from tests.integration.pages import open_page
from tests.integration.test_operations_page import exporting, watch
from tests.scenarios import SCENARIOS, write_scenario

pytestmark = pytest.mark.usefixtures("released_pages")

VIEWS: tuple[tuple[str, dict[str, str]], ...] = (
    *((page, {}) for page in SCRIPTS),
    ("leaderboards", {"period": "7 sessions"}),
    ("leaderboards", {"category": "Total value", "find": "a"}),
    ("market", {"range": "1 year"}),
    ("players", {"silent": "1", "window": "30 days"}),
    ("portfolios", {"player": "alice"}),
    ("portfolios", {"player": "alice", "rival": "bob", "window": "All"}),
    ("quests", {"ended": "All time", "player": "alice"}),
)
COUNTED = {"%,d", "localized"}
"""Formats of integer columns, which need no unit because the label names the counted things."""
FORBIDDEN = re.compile(
    r"\b(active quests?|(download )?as csv|boards?|standings?|counts? (for|as) nothing|course|days to go"
    r"|last active|players? \(total\)|replay:|tell of|two looks|weeks? from|worth)\b",
    re.IGNORECASE,
)
"""Words that no page may contain, because the pages use another word for the same concept."""


class Shown(NamedTuple):
    """An element of a page: its type, its protobuf message, and the page with its filters."""

    kind: str
    proto: Any
    view: str


def list_elements(block: Block, view: str) -> Iterator[Shown]:
    """Yield the elements of a block and of the blocks in it, in page order."""
    for child in block.children.values():
        if isinstance(child, Block):
            yield from list_elements(child, view)
        elif isinstance(child, Element):
            yield Shown(child.type, child.proto, view)


def open_views() -> Iterator[tuple[str, AppTest]]:
    """Open each page without filters and with filters, and yield its name with the page."""
    for page, filters in VIEWS:
        test = open_page(SCRIPTS[page], **filters)
        assert not test.exception, (page, filters)
        yield f"{page} {filters or ''}".strip(), test


def list_formats(table: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the label and the type configuration of each configured column of a table."""
    for name, column in json.loads(table.columns or "{}").items():
        yield column.get("label") or name, column.get("type_config", {})


def find_untitled_charts(elements: Iterable[Shown]) -> list[str]:
    """Return the charts with neither a heading above nor a caption below; adjacent charts share one."""
    untitled: list[str] = []
    waiting: list[str] = []
    is_titled = False
    for kind, proto, view in elements:
        if "chart" in kind:
            waiting += [] if is_titled else [f"{view}: {proto.alt}"]
            continue
        if kind != "caption":
            untitled += waiting
        waiting = []
        is_titled = kind in {"subheader", "header"} or (
            is_titled and kind in {"caption", "metric", "selectbox"}
        )
    return untitled + waiting


def list_forbidden_words(proto: Any) -> Iterator[str]:
    """Yield the forbidden words in the texts of an element; for a table only the column names are read."""
    texts = [str(getattr(proto, name, "")) for name in ("label", "body", "help", "delta", "alt", "columns")]
    for text in texts:
        yield from (found[0] for found in FORBIDDEN.finditer(text))


def has_unit(label: str, options: dict[str, Any]) -> bool:
    """Return whether a column of numbers has its unit in its label or its format."""
    format_ = options.get("format") or ""
    is_unit = any(sign in format_ for sign in ("%%", "$", "dollar")) or "(" in label or "/" in label
    return is_unit or format_ in COUNTED


@pytest.mark.parametrize("name", SCENARIOS)
def test_figures_charts_and_columns_are_labelled(service: EnhancedDatabaseService, name: str) -> None:
    """Each figure has a help text, each chart a title and an alternative text, each numeric column a unit."""
    write_scenario(service, name, datetime.now(UTC))
    sign_in.set_policy(Policy(is_local_operator=True))
    missing: set[str] = set()
    with exporting(service) as url:
        watch(service, url).sample()
        for view, page in open_views():
            elements = list(list_elements(page.main, view))
            missing |= {f"title of {chart}" for chart in find_untitled_charts(elements)}
            for kind, proto, _ in elements:
                missing |= {f"other words than {text!r} of {view}" for text in list_forbidden_words(proto)}
                if kind == "metric" and not proto.help:
                    missing.add(f"help of {view}: {proto.label}")
                elif "chart" in kind and not proto.alt:
                    missing.add(f"text of a chart of {view}")
                elif kind == "dataframe":
                    missing |= {
                        f"unit of {view}: {label}"
                        for label, options in list_formats(proto)
                        if options.get("type") == "number"
                        and not has_unit(label, options)
                        # the values of a styled column contain their unit
                        and not (options.get("format") is None and proto.arrow_data.HasField("styler"))
                    }
    assert not missing
