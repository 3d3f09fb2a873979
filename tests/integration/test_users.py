"""Calls of the service that create, find, update and delete users."""

import threading
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import redis

from core import EnhancedDatabaseService
from core.errors import InvalidInput, UserNotFound
from core.records import User
from core.service import users
from tests.conftest import Execute
from tests.patience import wait_until

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def test_create_and_get(service: EnhancedDatabaseService) -> None:
    """A user is found by id, by the id's text and by username."""
    user = service.create_user(
        username="alice", name="Alice", email="alice@example.com", preferences={"theme": ["dark"]}
    )
    assert service.get_user_by_id(user.id) == user
    assert service.get_user_by_id(str(user.id)) == user
    assert service.get_user_by_username("alice") == user
    assert user.preferences == {"theme": ("dark",)}
    assert user.created_at.tzinfo is not None


def test_ids_are_time_ordered(service: EnhancedDatabaseService) -> None:
    """Ids are UUIDs of version 7, so a user that is created later has a greater id."""
    ids = [service.create_user(username=f"player{n}").id for n in range(5)]
    assert ids == sorted(ids)
    assert {user_id.version for user_id in ids} == {7}


def test_results_cannot_be_changed(alice: User) -> None:
    """A `User` and its preferences are immutable, because threads share the cached record."""
    with pytest.raises(AttributeError):
        alice.name = "Mallory"  # type: ignore[misc]  # on purpose
    with pytest.raises(TypeError):
        alice.preferences["theme"] = "dark"  # type: ignore[index]  # on purpose


def test_an_error_names_the_unknown_user(service: EnhancedDatabaseService) -> None:
    """`UserNotFound` contains the id or the username for which the call was made."""
    unknown = uuid.uuid4()
    with pytest.raises(UserNotFound, match=str(unknown)):
        service.get_user_by_id(unknown)
    with pytest.raises(UserNotFound, match="'mallory'"):
        service.get_user_by_username("mallory")
    for call in (service.touch_last_active, service.delete_user):
        with pytest.raises(UserNotFound, match=str(unknown)):
            call(unknown)
    with pytest.raises(UserNotFound, match=str(unknown)):
        service.update_user_profile(unknown, name="X")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"username": ""}, "username is ''"),
        ({"username": "x" * 51}, "username is"),
        ({"username": "bob", "email": "nowhere"}, "email is a text of 7 characters that is no address"),
        ({"username": "bob", "name": "n" * 201}, "name is"),
        ({"username": "bob", "preferences": ["dark"]}, "preferences is"),
    ],
)
def test_invalid_input_creates_no_user(
    service: EnhancedDatabaseService, execute: Execute, values: dict[str, Any], message: str
) -> None:
    """`create_user` with an invalid argument raises an error that names it, and no row is inserted."""
    with pytest.raises(InvalidInput, match=message):
        service.create_user(**values)
    assert execute("SELECT count(*) FROM users") == [(0,)]


def test_usernames_are_unique(service: EnhancedDatabaseService, alice: User, bob: User) -> None:
    """A user cannot be created with, or renamed to, a taken username; the error contains the username."""
    with pytest.raises(InvalidInput, match="'alice', which is taken"):
        service.create_user(username="alice")
    with pytest.raises(InvalidInput, match="'alice', which is taken"):
        service.update_user_profile(bob.id, username="alice")
    assert service.get_user_by_id(bob.id).username == "bob"


def test_search_is_by_prefix_in_any_case(service: EnhancedDatabaseService, alice: User, bob: User) -> None:
    """A search ignores case, compares the beginning of username and name, and takes % and _ literally."""
    odd = service.create_user(username="al_ice%", name="Zed")
    assert service.search_users("AL") == (odd, alice)
    assert service.search_users("alice ad") == (alice,)
    assert service.search_users("al_") == (odd,)
    assert service.search_users("%") == ()
    assert service.search_users("\\") == ()
    assert service.search_users("", limit=2) == (odd, alice)
    assert bob in service.search_users("")


def test_search_finds_prefixes_of_the_highest_code_points(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """A search finds every username with the prefix, even if the prefix ends with the highest code point."""
    prefixes = ["a", "z", "\u00e9", "\ud7ff", "\ue000", "\uffff", "\U0010fffe", "\U0010ffff"]
    prefixes += [f"b{letter}" for letter in prefixes] + ["b\U0010ffff\U0010ffff"]
    names = [f"{prefix}{rest}" for prefix in prefixes for rest in ("", "a", "\U0010ffff", "\U0010ffffz")]
    execute("INSERT INTO users (username) SELECT DISTINCT unnest(%s)", (names,))
    for prefix in prefixes:
        found = [user.username for user in service.search_users(prefix, limit=1_000)]
        assert found == sorted({name for name in names if name.startswith(prefix)})


def test_update_changes_only_the_given_columns(service: EnhancedDatabaseService, alice: User) -> None:
    """An update changes only the given columns and invalidates the cached profile."""
    service.get_user_by_id(alice.id)
    changed = service.update_user_profile(alice.id, name="Alicia", preferences={"a": 1})
    assert (changed.name, changed.email, changed.preferences) == ("Alicia", alice.email, {"a": 1})
    assert changed.updated_at > alice.updated_at
    assert service.get_user_by_id(alice.id) == changed
    assert service.update_user_profile(alice.id, name=None).name is None


@pytest.mark.parametrize("changes", [{}, {"id": 1}, {"name": "A", "password": "x"}])
def test_update_refuses_other_columns(
    service: EnhancedDatabaseService, alice: User, changes: dict[str, Any]
) -> None:
    """An update that names no column, the id or an unknown column raises an error and changes nothing."""
    with pytest.raises(InvalidInput, match="cannot change"):
        service.update_user_profile(alice.id, **changes)
    assert service.get_user_by_id(alice.id) == alice


def test_touch_sets_last_active(service: EnhancedDatabaseService, alice: User) -> None:
    """`touch_last_active` sets `last_active` to the current time and invalidates the cached profile."""
    assert service.get_user_by_id(alice.id).last_active is None
    before = datetime.now(UTC)
    service.touch_last_active(alice.id)
    last_active = service.get_user_by_id(alice.id).last_active
    assert last_active is not None
    assert before <= last_active <= datetime.now(UTC)


def test_delete_removes_all_rows_of_a_user(
    service: EnhancedDatabaseService, alice: User, execute: Execute
) -> None:
    """A user's portfolios, quests and leaderboard entries are deleted with the user, also from the cache."""
    service.get_current_portfolio(alice.id)
    service.create_quest(alice.id, type="T", title="Quest", target_value=Decimal(1))
    service.update_leaderboard_entry(alice.id, "daily_returns", Decimal(1))
    service.get_leaderboard("daily_returns")
    service.get_user_active_quests(alice.id)
    service.delete_user(alice.id)
    assert service.get_leaderboard("daily_returns") == ()
    assert service.get_user_active_quests(alice.id) == ()
    with pytest.raises(UserNotFound):
        service.get_user_by_id(alice.id)
    with pytest.raises(UserNotFound):
        service.get_current_portfolio(alice.id)
    for table in ("users", "portfolios", "quests", "leaderboard_entries"):
        assert execute(f"SELECT count(*) FROM {table}") == [(0,)]


def test_no_portfolio_is_left_when_its_user_is_deleted(
    service: EnhancedDatabaseService, alice: User, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that opens a portfolio while the user is deleted gets `UserNotFound`, as do later calls."""
    list_keys = users.list_portfolio_keys  # type: ignore[attr-defined]  # as the module knows it
    refused: list[BaseException] = []

    def open_portfolio() -> None:
        try:
            service.get_current_portfolio(alice.id)
            service.get_current_portfolio(alice.id)
        except UserNotFound as error:
            refused.append(error)

    opener = threading.Thread(target=open_portfolio)

    def list_keys_and_open(*arguments: Any) -> Any:
        keys = list_keys(*arguments)
        opener.start()
        wait_until(lambda: not opener.is_alive() or execute(WAITING) != [(0,)], "it is open, or waits")
        return keys

    monkeypatch.setattr(users, "list_portfolio_keys", list_keys_and_open)
    service.delete_user(alice.id)
    opener.join()
    assert refused
    with pytest.raises(UserNotFound):
        service.get_current_portfolio(alice.id)


def test_profile_key_and_ttl(
    service: EnhancedDatabaseService, alice: User, redis_client: redis.Redis
) -> None:
    """A profile is cached in Redis under `user:ID` for at most 300 s."""
    service.get_user_by_id(alice.id)
    assert 250 < redis_client.ttl(f"user:{alice.id}") <= 300
