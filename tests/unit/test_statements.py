"""Each SQL statement of `core/queries` has a test of its plan, or a reason here why it needs none.

Statements are found in the constants of each module, also in mappings, so that a new statement is not missed.
A test covers a statement if it passes the statement to EXPLAIN or to the row counts of
`tests/integration/plans.py`.
"""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import core.queries
from tests.integration.test_query_plans import FUNCTIONS, HOT

SQL = re.compile(
    r"\s*(ALTER|ANALYZE|CREATE|DELETE|DROP|INSERT|LOCK|MERGE|SELECT|SET|TRUNCATE|UPDATE|WITH|\()\s*\w"
)
PLANS = ("test_summary_plans.py", "test_paging.py", "test_player_gains.py")
"""Test files in `tests/integration` that count the rows and blocks that a statement reads."""

BY_KEY = "changes or locks rows by the primary key of their table, or by a unique one"
TEMPLATE = "filled in to a statement that is listed itself"
CITUS = "explained where tables are distributed, in tests/matrix/test_citus.py"
ALL_ROWS = "an operator's or a program's task that takes every row of a table or of a leaderboard"
SMALL = "the table of symbols, some hundred rows"
ALL_PLAYERS = "a report on everybody, which reads every row of a window and is cached"
STATISTICS = "the server's own statistics"

NOT_EXPLAINED = {
    "audit.INSERT": BY_KEY,
    "audit_seals.SEAL": "a function, whose search for events is explained in test_audit_seals.py",
    "audit_seals.MAINTAIN": "creates and drops partitions",
    "audit_seals.LIST": "reads seals by their number",
    "audit_seals.ENTRIES": "reads the events of a seal by their time and id",
    "audit_seals.NEWEST": BY_KEY,
    "audit_seals.EXISTS": "the server's catalogue",
    "audit_seals.COUNT": ALL_ROWS,
    "audit_seals.FIND_ADDED": ALL_ROWS,
    "events.DELETE": BY_KEY,
    "events.SESSIONS": "reads all players of three sessions at most, and is cached",
    "leaderboard_reports._LIST": TEMPLATE,
    "leaderboard_reports._NEWEST_DATE": TEMPLATE,
    "leaderboard_reports._SCORES": TEMPLATE,
    "leaderboard_reports.PERIOD": "adds up all entries of a period, and is cached for it",
    "leaderboards.UPSERT": "inserts entries by the unique key of user, session and category",
    "leaderboards.CLOSE": ALL_ROWS,
    "leaderboards.SORT_MEMORY": "a setting",
    "leaderboards.RESET_MEMORY": "a setting",
    "leaderboards.ANALYZE": "calls a function that collects statistics",
    "leaderboards.COUNT_SESSION": ALL_ROWS,
    "leaderboards.HAS_COUNTERS": "the self-test's own leaderboard",
    "leaderboards.TRY_WRITERS_LOCK": "reads no table",
    "leaderboards.DELETE_ENTRIES": "the self-test's own leaderboard",
    "leaderboards.DELETE_COUNTERS": "the self-test's own leaderboard",
    "loads.FIND_EMAILS": BY_KEY,
    "loads.FIND_USER_IDS": BY_KEY,
    "loads.LOCK_QUESTS": BY_KEY,
    "loads.FIND_CONSTRAINT": "the server's catalogue, after a record was refused",
    "rows.REPORT_MEMORY": "a setting",
    "leaderboard_reports.REPORT_MEMORY": "a setting",
    "players.REPORT_MEMORY": "a setting",
    "quest_reports.REPORT_MEMORY": "a setting",
    "partitions.LIST": "the server's catalogue",
    "partitions.DROP": "calls a function that changes the schema",
    "partitions.HAS_TICKS": "stops at the first row of the partitions before a time",
    "partitions.FIND_WITHOUT_TICKS": "one probe of the index for each symbol, after partitions were dropped",
    "partitions.DELETE_UNUSED_SYMBOLS": "one probe of the index per symbol, after partitions were dropped",
    "players.HELD": "jumps from session to session like `sessions.DATES`, which is explained",
    "players.SILENT_MATCHES": "`SILENT` for the usernames with a prefix, which has an index",
    "players._COUNT": TEMPLATE,
    "portfolios.CREATE": BY_KEY,
    "portfolios.PROBE_INDEX": "settings",
    "quest_reports.OUTCOMES": ALL_PLAYERS,
    "quest_reports.STORED_ORDER": "a setting",
    "quest_reports.STUCK": ALL_PLAYERS,
    "quests.INSERT": BY_KEY,
    "quests.PROGRESS": BY_KEY,
    "quests.TOTALS": "adds up all quests, and is cached",
    "sessions.SEEN": ALL_PLAYERS,
    "users.COUNT_KEYS": ALL_ROWS,
    "users.LIST_OTHER_KEYS": "reads on in the order of the key, when keys are rotated",
    "users.REPLACE_EMAILS": BY_KEY,
    "sessions.UNDATED": "counts the entries of an index that holds these quests alone",
    "server_statistics._TABLES": STATISTICS,
    "server_statistics._UNUSED_INDEXES": STATISTICS,
    "server_statistics._FIND_STATEMENTS": STATISTICS,
    "server_statistics._SLOWEST_STATEMENTS": STATISTICS,
    "ticks._LATEST_IN_MONTH": TEMPLATE,
    "ticks.LIST_SYMBOLS": SMALL,
    "ticks.LIST_CURRENCIES": SMALL,
    "ticks.LIST_MOVED_WEEKS": SMALL,
    "ticks._UPDATE_SYMBOLS": TEMPLATE,
    "ticks.UPDATE_CURRENCIES": SMALL,
    "ticks.UPDATE_MOVED_WEEKS": SMALL,
    "ticks.INSERT": BY_KEY,
    "ticks.INSERT_ONE": BY_KEY,
    "ticks.DELETE": ALL_ROWS,
    "ticks.FIND_WITHOUT_TICKS": "one probe of the index, after the ticks of a symbol were deleted",
    "ticks.DELETE_UNUSED_SYMBOL": "one probe of the index, after the ticks of a symbol were deleted",
    "ticks._WALK": TEMPLATE,
    "ticks.SPARKLINES": "`SPARKLINES_OF_ALL` for some of the symbols",
    "distributed.DISTRIBUTED": CITUS,
    "distributed._WALK": TEMPLATE,
    "rows.DISTRIBUTED": CITUS,
    "loads.CLAIM_USERNAMES": BY_KEY,
    "loads.FIND_CLAIMED": BY_KEY,
    "loads.DELETE_MOVED": BY_KEY,
    "users.CLAIM_USERNAME": BY_KEY,
    "users.CHANGE_USERNAME": BY_KEY,
    "users.RELEASE_USERNAME": BY_KEY,
    "users.INSERT": BY_KEY,
    "users.UPDATE": BY_KEY,
    "users.TOUCH": BY_KEY,
    "users.TOUCH_MANY": BY_KEY,
    "users.DELETE": BY_KEY,
    "users.LOCK": BY_KEY,
}
"""Statements without a test of their plan, each with the reason."""


def list_statements() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each statement; all statements of a mapping have the mapping's name."""
    for module in pkgutil.iter_modules(core.queries.__path__):
        for name, value in vars(importlib.import_module(f"core.queries.{module.name}")).items():
            if name.isupper():
                texts = value.values() if isinstance(value, dict | MappingProxyType) else [value]
                for text in texts:
                    if isinstance(text, str) and SQL.match(text):
                        yield f"{module.name}.{name}", text


def list_explained(repository: Path) -> set[str]:
    """Return the statements, as `module.NAME`, that the tests in PLANS name."""
    folder = repository / "tests/integration"
    texts = [(folder / name).read_text(encoding="utf-8") for name in PLANS]
    return {found for text in texts for found in re.findall(r"\b[a-z_]+\.[A-Z_]+\b", text)}


def test_every_statement_has_a_plan_test_or_a_reason(repository: Path) -> None:
    """Each statement is in a test of plans, in NOT_EXPLAINED, or part of another statement."""
    statements = list(list_statements())
    tested = {statement for statement, _, _ in (*HOT.values(), *FUNCTIONS.values())}
    explained = list_explained(repository)
    unknown = {
        name
        for name, text in statements
        if text not in tested
        and name not in explained
        and name not in NOT_EXPLAINED
        # a part of another statement is tested with that statement
        and not any(text.strip() in other for _, other in statements if other != text)
    }
    assert not unknown


def test_every_reason_is_needed(repository: Path) -> None:
    """Each entry of NOT_EXPLAINED is an existing statement that no test of plans covers."""
    tested = {statement for statement, _, _ in (*HOT.values(), *FUNCTIONS.values())}
    explained = list_explained(repository)
    excused = {name for name, text in list_statements() if text not in tested and name not in explained}
    assert NOT_EXPLAINED.keys() <= excused


def test_functions_that_build_statements_are_listed(repository: Path) -> None:
    """Functions with SQL in their code are listed here, because `list_statements` finds only constants."""
    building = {
        "audit_seals": {"maintain_months"},
        "loads": {"_upsert", "find_refused_key"},
        "partitions": {"lock_maintenance"},
        "players": {"build_report_statement", "_build_page"},
        "server_statistics": {"read_clock"},
    }
    for path in sorted((repository / "core/queries").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                document = ast.get_docstring(function, clean=False)
                texts = {
                    node.value
                    for node in ast.walk(function)
                    if isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and node.value != document
                }
                if any(re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s", text) for text in texts):
                    assert function.name in building.get(path.stem, ()), f"{path.stem}.{function.name}"
