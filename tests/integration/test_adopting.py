"""Each example of `docs/adopting.md` works as printed."""

import asyncio
import re
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from core import EnhancedDatabaseService, Settings
from core.errors import TransactionMisused
from tests.conftest import Execute
from tests.forking import forked

PAGE = "docs/adopting.md"
SECTIONS = ("Open the service once", "asyncio", "FastAPI", "gunicorn", "Celery")


def read_examples(repository: Path) -> dict[str, str]:
    """Return the Python code of each section, by the beginning of its title."""
    text = (repository / PAGE).read_text(encoding="utf-8")
    found = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    examples = {
        title: "\n\n".join(re.findall(r"```python\n(.*?)```", body, re.DOTALL)) for title, body in found
    }
    return {
        name: next(code for title, code in examples.items() if title.startswith(name)) for name in SECTIONS
    }


@pytest.fixture
def run_example(
    repository: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Any]:
    """Return a function that runs a section's code as a module with the test's servers in its environment."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("REDIS_URL", settings.redis_url.get_secret_value())
    assert settings.redis_password is not None
    monkeypatch.setenv("REDIS_PASSWORD", settings.redis_password.get_secret_value())
    monkeypatch.setenv("METRICS_DIR", str(tmp_path / "metrics"))

    def run(section: str, name: str) -> Any:
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(
            compile(read_examples(repository)[section], PAGE, "exec"), vars(module)
        )  # trusted: code of this repository
        return module

    return run


@pytest.fixture
def list_usernames(execute: Execute) -> Callable[[], list[str]]:
    """Return a function that lists the stored usernames in alphabetical order."""
    return lambda: [name for (name,) in execute("SELECT username FROM users ORDER BY 1")]


def test_the_document_has_no_other_example(repository: Path) -> None:
    """The document has one Python example in each section of `SECTIONS`, and README.md links it."""
    text = (repository / PAGE).read_text(encoding="utf-8")
    assert all(read_examples(repository).values())
    assert text.count("```python") == len(SECTIONS)
    assert f"({PAGE})" in (repository / "README.md").read_text(encoding="utf-8")


def test_asyncio(
    run_example: Callable[[str, str], Any],
    service: EnhancedDatabaseService,
    list_usernames: Callable[[], list[str]],
) -> None:
    """`open_accounts` opens eight accounts concurrently and stores each of them completely."""
    example = run_example("asyncio", "my_game")
    asyncio.run(example.open_accounts(service, [f"user{n}" for n in range(8)]))
    assert list_usernames() == [f"user{n}" for n in range(8)]
    assert len(service.get_leaderboard("total_value")) == 8
    with pytest.raises(ValueError, match="taken"):
        asyncio.run(example.open_accounts(service, ["alice", "user3"]))


def test_fastapi(
    run_example: Callable[[str, str], Any], list_usernames: Callable[[], list[str]], execute: Execute
) -> None:
    """The FastAPI example serves parallel requests, and an error becomes status 400 or 422.

    A failed request stores nothing, and a GET request creates no portfolio.
    """
    example = run_example("FastAPI", "my_api")
    with TestClient(example.app) as client, ThreadPoolExecutor(8) as pool:
        players = [f"user{n % 6}" for n in range(12)]
        answers = list(pool.map(lambda name: client.post(f"/players/{name}"), players))
        assert sorted(answer.status_code for answer in answers) == [200] * 6 + [400] * 6
        rows = client.get("/leaderboard").json()
        assert sorted(row["username"] for row in rows) == [f"user{n}" for n in range(6)] == list_usernames()
        player, path = rows[0]["user_id"], "/players/{}/portfolio?day={}"
        for day in ("2026-03-02", "9999-12-31"):
            assert client.get(path.format(player, day)).json() is None
        assert execute("SELECT count(*) FROM portfolios") == [(0,)]
        opened = example.app.state.service.get_current_portfolio(player)
        found = client.get(path.format(player, opened.session_date))
        assert found.json()["total_value"] == "10000.00"
        assert client.get(path.format("alice", "2026-03-02")).status_code == 422
        described = client.get("/openapi.json").json()["paths"]["/players/{user_id}/portfolio"]
        assert "total_value" in str(described)
        assert example.app.state.service.pool_stats().pool_in_use == 0
        assert example.app.state.service.metrics.role == "my-api"


def test_a_transaction_in_a_dependency_is_refused(
    service: EnhancedDatabaseService, list_usernames: Callable[[], list[str]], execute: Execute
) -> None:
    """A FastAPI dependency that yields inside `transaction()` raises `TransactionMisused` with the remedy.

    The refused requests store nothing and leave no transaction open.
    """

    def begin() -> Iterator[None]:
        with service.transaction():
            yield

    app = FastAPI()

    @app.post("/{name}", dependencies=[Depends(begin)])
    def create(name: str) -> None:
        service.create_user(username=name)
        raise LookupError(name)

    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:

        def post(name: str) -> Exception | None:
            try:
                client.post(f"/{name}")
            except Exception as error:
                return error
            return None

        errors = list(pool.map(post, [f"user{n}" for n in range(8)]))
    assert {type(error) for error in errors} == {TransactionMisused}
    assert all("await asyncio.to_thread(function)" in str(error) for error in errors)
    assert list_usernames() == []
    [(open_transactions,)] = execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    assert open_transactions == 0
    service.create_user(username="alice")


@contextmanager
def closed_at_end(service: EnhancedDatabaseService) -> Iterator[EnhancedDatabaseService]:
    """Yield the service that an example opened, and close it afterwards."""
    try:
        yield service
    finally:
        service.close()


def test_gunicorn(run_example: Callable[[str, str], Any], list_usernames: Callable[[], list[str]]) -> None:
    """The gunicorn master preloads the service. A worker uses it and closes its copy in `worker_exit`."""
    api = run_example("Open the service once", "my_api")
    configuration = run_example("gunicorn", "gunicorn_conf")
    assert configuration.preload_app
    with closed_at_end(api.service) as service:
        service.create_user(username="master")

        def serve() -> list[object]:
            user = service.create_user(username="worker")
            return [service.get_user_by_id(user.id).username, service.pool_stats().connections_num]

        def end() -> int:
            configuration.worker_exit(None, None)
            return service.pool_stats().pool_size

        with forked(serve=serve, end=end) as first:
            assert first.ask("serve") == ["worker", 1]
            assert first.ask("end") == 0
        assert service.get_user_by_username("worker").username == "worker"
    assert list_usernames() == ["master", "worker"]


def test_celery_and_rq(run_example: Callable[[str, str], Any]) -> None:
    """The service of the Celery and RQ example works in three forked children, one after the other."""
    tasks = run_example("Celery", "my_tasks")
    with closed_at_end(tasks.service) as service:
        alice = service.create_user(username="alice")
        before = service.get_current_portfolio(alice.id).total_value
        for _ in range(3):
            with forked(job=lambda: tasks.reward(alice.id, Decimal("2.50"))) as child:
                child.ask("job")
        assert service.get_current_portfolio(alice.id).total_value == before + Decimal("7.50")
