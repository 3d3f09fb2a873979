"""Text that others stored is shown as text: no page makes a link, an image, a formula or an icon of it.

The rows are written past the service and without its constraints, because an older release or another
program may have stored what the service refuses. Every page goes on to show what it can.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService
from dashboard.navigation import SCRIPTS
from dashboard.server import sign_in
from dashboard.server.access import Policy
from tests.conftest import Execute
from tests.integration.pages import open_page
from tests.integration.test_labels import list_elements
from tests.integration.test_operations_page import exporting, watch
from tests.scenarios import write_scenario

pytestmark = pytest.mark.usefixtures("released_pages")

# Markdown's own syntax, which a backslash takes the meaning from.
SYNTAX = (
    "[a](//evil.example)", "![a](//evil.example)", "<img src=x>", "<b>a</b>", "$x^2$", "$$x$$", "**a**",
    "~~a~~", "`a`", ":red[a]", ":blue-badge[a]", "&lt;",
)  # fmt: skip  # one text a line would hide that each is another construct
# Streamlit looks for these in the text that is left without the backslashes.
LITERAL = (
    "https://evil.example", "www.evil.example", "a@evil.example", ":smile:", ":+1:", ":-1:", ":100:",
    ":e-mail:", ":material/home:", ":streamlit:",
)  # fmt: skip  # as above
HOSTILE = (*SYNTAX, *LITERAL)
# Two in each value: the first is at the start of the line.
VALUES = [f"{text} {HOSTILE[(place + 13) % len(HOSTILE)]}" for place, text in enumerate(HOSTILE)]
# Names that stand for themselves; the scenario has these symbols.
NAMES = {"symbol", "category", "currency", "affected_symbols"}
SYMBOLS = {"AAPL": HOSTILE[0], "FB": "$x^2$ :smile:", "IBM": "IBM", "OLD": "www.evil.example"}
# Fields of elements in which no Markdown is drawn.
PLAIN = {
    "button.id", "code.code_text", "dataframe.alt", "link_button.url", "selectbox.options",
    "selectbox.raw_value", "text_input.value",
    "vega_lite_chart.alt", "vega_lite_chart.spec",
}  # fmt: skip  # as above
VIEWS: tuple[tuple[str, dict[str, str]], ...] = (
    *((page, {}) for page in SCRIPTS),
    ("leaderboards", {"period": "7 sessions"}),
    ("leaderboards", {"category": "Total value", "find": "!"}),
    ("leaderboards", {"category": "Www.evil.example"}),
    ("leaderboards", {"category": "Www.evil.example", "find": "!"}),
    ("leaderboards", {"category": "Www.evil.example", "period": "7 sessions"}),
    ("players", {"silent": "1", "window": "30 days"}),
    ("portfolios", {"player": VALUES[1] + " 1"}),
    ("portfolios", {"player": VALUES[1] + " 1", "rival": VALUES[2] + " 2", "window": "All"}),
    ("market", {"range": "1 year", "symbol": "IBM"}),
    ("quests", {"ended": "All time", "player": VALUES[1] + " 1"}),
)
LIST_TEXTS = """
    SELECT relname, attname, CASE WHEN atttypmod > 0 THEN atttypmod - 4 ELSE 300 END
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
      AND atttypid IN ('text'::regtype, 'varchar'::regtype) AND attnum > 0 AND NOT attisdropped
      AND relname <> 'schema_migration'"""
LIST_CHECKS = """
    SELECT conrelid::regclass, conname, pg_get_constraintdef(c.oid) FROM pg_constraint c
    WHERE contype = 'c' AND connamespace = current_schema()::regnamespace AND coninhcount = 0"""


def spoil(execute: Execute) -> None:
    """Put hostile texts into every column that holds text, except for those with a list of values."""
    closed = set()
    for table, name, definition in execute(LIST_CHECKS):
        if "= ANY (" in definition:
            closed.add((table, definition))
        else:
            execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    # without triggers, because the audit log refuses every change
    execute("SET session_replication_role = replica")
    for table, column, size in execute(LIST_TEXTS):
        if column in NAMES or any(table == other and f"{column})" in words for other, words in closed):
            continue
        number = "' ' || n" if (table, column) == ("users", "username") else "''"
        execute(
            f"""UPDATE {table} AS t SET {column} = left((%s::text[])[1 + n %% %s], %s - 5) || {number}
                FROM (SELECT ctid AS place, (row_number() OVER (ORDER BY ctid))::int AS n FROM {table}) AS o
                WHERE t.ctid = place""",
            (VALUES, len(VALUES), size),
        )
    execute("RESET session_replication_role")
    execute("UPDATE users SET preferences = jsonb_build_object(%s::text, %s::text)", (HOSTILE[0], HOSTILE[6]))
    spoil_names(execute)


def spoil_names(execute: Execute) -> None:
    """Add leaderboards with hostile names, and rename symbols."""
    execute(
        """INSERT INTO leaderboard_entries (user_id, session_date, category, score)
           SELECT user_id, session_date, unnest(%s::text[]), 5 FROM portfolios""",
        (list(HOSTILE),),
    )
    before, after = list(SYMBOLS), list(SYMBOLS.values())
    for table in ("ticks", "positions", "trades"):
        execute(
            f"UPDATE {table} SET symbol = (%s::text[])[array_position(%s::text[], symbol)]", (after, before)
        )
    # a trigger added the others
    execute("DELETE FROM symbols WHERE symbol <> ALL (%s)", (after,))
    execute("UPDATE symbols SET currency = '$x^2$'")
    execute("UPDATE market_events SET affected_symbols = %s::text[]", (after,))


def list_texts(message: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield every text in a message to the browser, with the path to its field."""
    for field, value in message.ListFields():
        name = f"{path}.{field.name}"
        repeated = value if hasattr(value, "append") else [value]
        for each in repeated:
            if isinstance(each, str):
                yield name, each
            elif hasattr(each, "ListFields"):
                yield from list_texts(each, name)


def find_markup(path: str, text: str) -> list[str]:
    """Return the hostile texts that are not broken up in the text of an element."""
    if path in PLAIN:
        return []
    if path == "dataframe.columns":
        # the labels of columns are drawn as they are, their help texts are Markdown
        text = " ".join(column.get("help") or "" for column in json.loads(text).values())
    # the address of a player has the name in it
    text = re.sub(r"\]\(portfolios\?[^)\s]*\)", "]", text)
    meant, plain = re.sub(r"\\.", "", text), text.replace("\\", "")
    return [each for each in SYNTAX if each in meant] + [each for each in LITERAL if each in plain.lower()]


def list_markup(page: AppTest) -> Iterator[str]:
    """Yield where a page would show a hostile text as markup."""
    for block in (page.main, page.sidebar):
        for kind, proto, _ in list_elements(block, ""):
            for path, text in list_texts(proto, kind):
                for found in find_markup(path, text):
                    yield f"{path}: {found} in {text[:200]}"


def test_no_page_makes_markup_of_stored_texts_or_fails(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """Every text of every table is shown on every page, also with filters; no part is missing."""
    write_scenario(service, "players come and go", datetime.now(UTC))
    sign_in.set_policy(Policy(is_local_operator=True))
    with service.audited(actor="alice", action="clear_cache", target="bob"):
        pass
    spoil(execute)
    wrong = []
    with exporting(service) as url:
        watch(service, url).sample()
        for name, parameters in VIEWS:
            page = open_page(SCRIPTS[name], **parameters)
            view = f"{name} {parameters or ''}".strip()
            assert not page.exception, view
            wrong += [f"{view}: {warning.value}" for warning in page.warning]
            wrong += [f"{view}: {found}" for found in list_markup(page)]
    assert not wrong


def test_names_that_no_call_accepts_are_not_offered(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """A leaderboard with such a name is in no list, and `warm_cache` works."""
    write_scenario(service, "one player", datetime.now(UTC))
    before = service.list_leaderboard_categories()
    spoil(execute)
    # the one of the hostile names that is a good one
    assert service.list_leaderboard_categories() == (*before, "www.evil.example")
    assert service.warm_cache() > 0
