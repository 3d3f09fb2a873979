"""Pages show stored text as plain text, never as a link, image, formula or icon.

The rows are written with SQL and without the constraints, because an older release or another program may
have stored text that the service refuses. Every page still opens.
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

# Markdown syntax, which a backslash escapes.
SYNTAX = (
    "[a](//evil.example)", "![a](//evil.example)", "<img src=x>", "<b>a</b>", "$x^2$", "$$x$$", "**a**",
    "~~a~~", "`a`", ":red[a]", ":blue-badge[a]", "&lt;",
)  # fmt: skip  # several texts a line, because the list is long
# Streamlit converts these after Markdown has removed the backslashes, so a backslash does not escape them.
LITERAL = (
    "https://evil.example", "www.evil.example", "a@evil.example", ":smile:", ":+1:", ":-1:", ":100:",
    ":e-mail:", ":material/home:", ":streamlit:",
)  # fmt: skip  # several texts a line, because the list is long
HOSTILE = (*SYNTAX, *LITERAL)
# Each value has two hostile texts, so that one is at the start of the line and one is not.
VALUES = [f"{text} {HOSTILE[(place + 13) % len(HOSTILE)]}" for place, text in enumerate(HOSTILE)]
# `spoil_names` changes these columns.
NAMES = {"symbol", "category", "currency", "affected_symbols"}
SYMBOLS = {"AAPL": HOSTILE[0], "FB": "$x^2$ :smile:", "IBM": "IBM", "OLD": "www.evil.example"}
# Fields of elements that Streamlit does not render as Markdown.
PLAIN = {
    "button.id", "code.code_text", "dataframe.alt", "link_button.url", "selectbox.options",
    "selectbox.raw_value", "text_input.value",
    "vega_lite_chart.alt", "vega_lite_chart.spec",
}  # fmt: skip  # several texts a line, because the list is long
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
    """Write hostile texts into every text column that no constraint limits to a list of values."""
    closed = set()
    for table, name, definition in execute(LIST_CHECKS):
        if "= ANY (" in definition:
            closed.add((table, definition))
        else:
            execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    # disable triggers, because a trigger of the audit log refuses every change
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
    """Add leaderboards with hostile names, and replace the symbols and currencies by hostile ones."""
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
    # a trigger has added the new symbols and kept the former ones
    execute("DELETE FROM symbols WHERE symbol <> ALL (%s)", (after,))
    execute("UPDATE symbols SET currency = '$x^2$'")
    execute("UPDATE market_events SET affected_symbols = %s::text[]", (after,))


def list_texts(message: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the field path and the text of every string in a protobuf message."""
    for field, value in message.ListFields():
        name = f"{path}.{field.name}"
        repeated = value if hasattr(value, "append") else [value]
        for each in repeated:
            if isinstance(each, str):
                yield name, each
            elif hasattr(each, "ListFields"):
                yield from list_texts(each, name)


def find_markup(path: str, text: str) -> list[str]:
    """Return the hostile texts that the browser would render as markup in the text of an element."""
    if path in PLAIN:
        return []
    if path == "dataframe.columns":
        # the labels of columns are plain text, and their help texts are Markdown
        text = " ".join(column.get("help") or "" for column in json.loads(text).values())
    # links to a player have the username in their URL
    text = re.sub(r"\]\(portfolios\?[^)\s]*\)", "]", text)
    unescaped, plain = re.sub(r"\\.", "", text), text.replace("\\", "")
    return [each for each in SYNTAX if each in unescaped] + [
        each for each in LITERAL if each in plain.lower()
    ]


def list_markup(page: AppTest) -> Iterator[str]:
    """Yield the field and the text of each place where a page would render a hostile text as markup."""
    for block in (page.main, page.sidebar):
        for kind, proto, _ in list_elements(block, ""):
            for path, text in list_texts(proto, kind):
                for found in find_markup(path, text):
                    yield f"{path}: {found} in {text[:200]}"


def test_pages_show_stored_texts_without_markup(service: EnhancedDatabaseService, execute: Execute) -> None:
    """With hostile texts in every table, no page shows markup, an exception or a warning."""
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


def test_invalid_category_names_are_not_listed(service: EnhancedDatabaseService, execute: Execute) -> None:
    """Leaderboard categories with an invalid name are not listed, and `warm_cache` works."""
    write_scenario(service, "one player", datetime.now(UTC))
    before = service.list_leaderboard_categories()
    spoil(execute)
    # the only hostile name that is a valid category
    assert service.list_leaderboard_categories() == (*before, "www.evil.example")
    assert service.warm_cache() > 0
