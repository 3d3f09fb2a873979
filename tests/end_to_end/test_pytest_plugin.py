"""A separate project uses the pytest plugin of the installed wheel."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.checkout import copy_checkout
from tests.end_to_end.installation import Installation, build_wheel

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

ISOLATION = """
import os
from decimal import Decimal

import psycopg2
import pytest

from core import Settings, open_service


@pytest.mark.parametrize("turn", range(3))
def test_each_test_begins_empty(echo_markets_service, echo_markets_settings, turn):
    tables = ("users", "ticks", "symbols", "quests", "quest_counters", "leaderboard_counters", "audit_events")
    connection = psycopg2.connect(echo_markets_settings.database_url.get_secret_value())
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f"SELECT count(*) FROM {table}")
            assert cursor.fetchone() == (0,), table
        cursor.execute("SELECT count(*) > 5 FROM schema_migration")
        assert cursor.fetchone() == (True,)
        cursor.execute("INSERT INTO users (username) VALUES ('left in a transaction that nobody ends')")
    service = echo_markets_service
    user = service.create_user(username="alice")
    service.update_leaderboard_entry(user.id, "total_value", Decimal(1))
    service.insert_market_tick("AAPL", Decimal(1))
    with service.audited(actor="alice", action="warm_cache", target="all"):
        service.get_user_by_id(user.id)
    assert service.cache_stats().state == "enabled"


def test_the_environment_does_not_count(echo_markets_settings):
    assert echo_markets_settings.database_url.get_secret_value() != os.environ["DATABASE_URL"]
    assert echo_markets_settings.redis_key_prefix == ""


def test_a_program_that_reads_the_environment_finds_the_servers(echo_markets_environment):
    assert "REDIS_KEY_PREFIX" not in os.environ
    with open_service() as service:
        assert service.search_users("") == ()
        assert service.health().status == "healthy"


def test_the_servers_are_real(echo_markets_postgres, echo_markets_valkey):
    connection = psycopg2.connect(echo_markets_postgres.url())
    assert connection.server_version >= 180000
    assert echo_markets_valkey.url.startswith("redis://127.0.0.1:")


def test_the_environment_is_back():
    assert os.environ["REDIS_KEY_PREFIX"] == "production:"
    assert Settings.load().database_url.get_secret_value() == "postgresql://db.example/production"
"""

UNUSED = """
import sys


def test_nothing_was_imported():
    assert "echo_markets.pytest_plugin" in sys.modules
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert loaded & {"core", "psycopg2", "pydantic", "redis", "peewee"} == set()
"""


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """Yield an environment with the wheel, its extra `local` and pytest, as docs/testing.md describes."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        root = Path(folder)
        # as root, PostgreSQL runs under another account, which must be able to enter this folder
        root.chmod(0o755)
        wheel = build_wheel(copy_checkout(root / "checkout").root, root / "wheel")
        yield Installation(root, wheel, extras=("local",), tools=("pytest", "pytest-xdist"))


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Return an empty project whose environment variables name a production database."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://db.example/production")
    monkeypatch.setenv("REDIS_KEY_PREFIX", "production:")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    # the plugin must also work with pytest's strictest options
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n")
    return pytester


def run(project: pytest.Pytester, installation: Installation, *arguments: str) -> pytest.RunResult:
    """Run the project's tests with the plugin of the wheel and pytest's own plugins only."""
    plugins = ("randomly", "xdist", "cov", "timeout", "anyio", "hypothesispytest", "playwright", "base_url")
    disabled = [part for name in plugins for part in ("-p", f"no:{name}")]
    return project.run(str(installation.python), "-m", "pytest", *disabled, *arguments)


def read_example(repository: Path) -> str:
    """Return the code of the example test in docs/testing.md."""
    text = (repository / "docs/testing.md").read_text("utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_documented_example_passes(
    project: pytest.Pytester, installation: Installation, repository: Path
) -> None:
    """The example test of docs/testing.md passes unchanged."""
    project.makepyfile(test_game=read_example(repository))
    run(project, installation).assert_outcomes(passed=2)


def test_every_fixture_is_documented(
    project: pytest.Pytester, installation: Installation, repository: Path
) -> None:
    """docs/testing.md names exactly the fixtures of the plugin that `pytest --fixtures` lists."""
    shown = run(project, installation, "--fixtures").outlines
    fixtures = {line.split()[0] for line in shown if line.startswith("echo_markets_")}
    document = (repository / "docs/testing.md").read_text("utf-8")
    assert fixtures == set(re.findall(r"`(echo_markets_\w+)`", document))


def test_each_test_is_isolated(project: pytest.Pytester, installation: Installation) -> None:
    """A test sees no rows, transactions or cached values of another test, and no environment settings."""
    project.makepyfile(test_game=ISOLATION)
    run(project, installation).assert_outcomes(passed=7)


def test_an_unused_plugin_imports_nothing(project: pytest.Pytester, installation: Installation) -> None:
    """A test run that uses no fixture of the plugin imports no module of the stack or of its dependencies."""
    project.makepyfile(test_game=UNUSED)
    run(project, installation).assert_outcomes(passed=1)


def test_a_project_with_its_own_core_keeps_working(
    project: pytest.Pytester, installation: Installation
) -> None:
    """A project's own package `core` works; a test that uses the plugin fails and names that package."""
    project.mkpydir("core").joinpath("game.py").write_text("ANSWER = 42\n", "utf-8")
    project.makepyfile(
        test_game="""
        def test_own(): from core.game import ANSWER; assert ANSWER == 42
        def test_ours(echo_markets_service): raise AssertionError
        """
    )
    result = run(project, installation)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*ImportError: `core` is */core/__init__.py, not the package of Echo Markets*"]
    )


def test_each_xdist_worker_has_its_own_servers(
    project: pytest.Pytester, installation: Installation, repository: Path
) -> None:
    """With two pytest-xdist workers the tests pass, because each worker starts its own servers."""
    project.makepyfile(test_one=read_example(repository), test_two=read_example(repository))
    command = (str(installation.python), "-m", "pytest", "-p", "no:randomly", "-n", "2", "--dist", "loadfile")
    project.run(*command).assert_outcomes(passed=4)
