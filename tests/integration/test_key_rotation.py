"""`echo-markets rotate-keys` encrypts every stored e-mail address with a new key while the stack runs."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import psycopg2
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.bulk_load import ignore_progress
from core.cli import main
from core.encryption import new_key_line
from core.errors import EchoMarketsError
from core.key_rotation import rotate_keys
from core.records import EncryptionKeyUse
from core.testing import build_environment
from tests.addresses import FIRST
from tests.conftest import KEYS, Execute
from tests.patience import stretch, wait_until

NEW = new_key_line("new")
USERS = 30


def with_keys(settings: Settings, *lines: str) -> Settings:
    """Return the settings with these encryption keys; the first one encrypts."""
    return settings.model_copy(update={"encryption_keys": SecretStr("\n".join(lines))})


@pytest.fixture
def old(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service that encrypts with the old key, knows the new key, and has stored addresses."""
    with open_service(with_keys(settings, KEYS, NEW)) as service:
        for number in range(USERS):
            service.create_user(username=f"player-{number:02}", email=f"{number}@example.org")
        service.create_user(username="without")
        yield service


@pytest.fixture
def new(settings: Settings) -> Iterator[EnhancedDatabaseService]:
    """Yield a service that encrypts with the new key and knows the old one."""
    with open_service(with_keys(settings, NEW, KEYS)) as service:
        yield service


def count_keys(service: EnhancedDatabaseService) -> dict[str, int]:
    """Return the number of stored addresses by the id of their key."""
    return {key.id: key.emails for key in service.list_encryption_keys()}


def check_addresses(service: EnhancedDatabaseService) -> None:
    """Assert that every user has its address and is found by this address."""
    for user in service.list_users():
        if user.username != "without":
            assert user.email == f"{int(user.username[-2:])}@example.org"
            assert service.list_users_by_email(user.email) == (user,)
            assert service.get_user_by_id(user.id) == user


def test_batches_continue_where_the_last_one_ended(
    old: EnhancedDatabaseService, new: EnhancedDatabaseService, execute: Execute
) -> None:
    """A rotation continues after an interrupted batch and changes only the users' addresses."""
    before = execute("SELECT id, username, name, last_active, created_at, updated_at FROM users ORDER BY id")
    first = new.reencrypt_users(limit=10)
    assert (first.changed, first.unreadable) == (10, ())
    assert first.last == before[9][0]
    assert count_keys(new) == {"new": 10, "tests": 20}
    with pytest.raises(ZeroDivisionError), new.transaction():
        new.reencrypt_users(limit=10)
        raise ZeroDivisionError
    assert count_keys(new) == {"new": 10, "tests": 20}
    # the next rotation finds the remaining rows by their key, as after an interruption
    rotation = rotate_keys(new, progress=ignore_progress)
    assert (rotation.changed, rotation.unreadable, rotation.is_complete) == (20, (), True)
    assert rotate_keys(new, progress=ignore_progress).changed == 0
    assert new.list_encryption_keys() == (
        EncryptionKeyUse("new", USERS, is_known=True, is_current=True),
        EncryptionKeyUse("tests", 0, is_known=True, is_current=False),
    )
    after = execute("SELECT id, username, name, last_active, created_at, updated_at FROM users ORDER BY id")
    assert after == before
    check_addresses(new)
    check_addresses(old)


def test_the_old_key_is_not_needed_after_a_rotation(
    old: EnhancedDatabaseService, new: EnhancedDatabaseService, settings: Settings
) -> None:
    """After a rotation a service with only the new key reads every address, even one that it had cached."""
    players = [user for user in old.list_users() if user.email]
    with open_service(with_keys(settings, NEW)) as with_new_key_only:
        assert all(
            "no key 'tests'" in str(with_new_key_only.get_user_by_id(user.id).email) for user in players
        )
        rotate_keys(new, progress=ignore_progress)
        # the near cache receives the invalidations within milliseconds
        wait_until(
            lambda: [with_new_key_only.get_user_by_id(user.id) for user in players] == players, "all are read"
        )
        check_addresses(with_new_key_only)


def test_concurrent_writers_lose_no_address(
    old: EnhancedDatabaseService, new: EnhancedDatabaseService
) -> None:
    """While a rotation runs, two services with different keys write addresses, and no write is lost."""
    players = [user for user in old.list_users() if user.email]
    stopping = threading.Event()
    last: dict[str, str] = {}
    failed: list[EchoMarketsError] = []

    def write(service: EnhancedDatabaseService, mine: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            for user in players[mine::2]:
                email = f"{mine}-{number}@example.org"
                try:
                    service.update_user_profile(user.id, email=email)
                except EchoMarketsError as error:
                    failed.append(error)
                    return
                last[user.username] = email

    threads = [threading.Thread(target=write, args=(each, n)) for n, each in enumerate((old, new))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            after = None
            while (batch := new.reencrypt_users(limit=7, after=after)).last is not None:
                assert batch.unreadable == ()
                after = batch.last
    finally:
        stopping.set()
        for thread in threads:
            thread.join(stretch(30))
    assert failed == []
    for service in (new, old):
        assert {user.username: user.email for user in service.list_users() if user.email} == last
    assert rotate_keys(new, progress=ignore_progress).is_complete
    assert {user.username: user.email for user in old.list_users() if user.email} == last
    assert all(len(new.list_users_by_email(email)) >= 1 for email in last.values())


def test_an_address_that_changed_meanwhile_is_left_alone(
    old: EnhancedDatabaseService, new: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch skips a user whose address changed and a user who was deleted after the batch had read them."""
    changed, deleted, *_ = (user for user in old.list_users() if user.email)
    reencrypt = new._reencrypt

    def change_first(found: object) -> object:
        result = reencrypt(found)  # type: ignore[arg-type]  # passed through
        old.update_user_profile(changed.id, email=FIRST)
        old.delete_user(deleted.id)
        return result

    monkeypatch.setattr(new, "_reencrypt", change_first)
    assert new.reencrypt_users().changed == USERS - 2
    assert new.get_user_by_id(changed.id).email == FIRST
    assert count_keys(new) == {"new": USERS - 2, "tests": 1}
    # the next run encrypts the address that this run skipped
    monkeypatch.undo()
    assert new.reencrypt_users().changed == 1
    assert new.get_user_by_id(changed.id).email == FIRST


def test_a_rotation_continues_after_sigkill(
    old: EnhancedDatabaseService, new: EnhancedDatabaseService, execute: Execute, settings: Settings
) -> None:
    """After SIGKILL within a batch every address can be decrypted, and the next rotation completes."""
    new.reencrypt_users(limit=10)
    environment = build_environment(with_keys(settings, NEW, KEYS))
    with psycopg2.connect(settings.database_url.get_secret_value()) as holder, holder.cursor() as cursor:
        # the batch waits for this locked row after it has changed rows before it
        cursor.execute("SELECT FROM users WHERE username = %s FOR UPDATE", (f"player-{USERS - 1}",))
        killed = subprocess.Popen(
            [sys.executable, "-m", "core.cli", "rotate-keys"], env={**os.environ, **environment}
        )
        try:
            wait_until(lambda: is_waiting(execute), "the rotation waits for the lock", 30.0)
        finally:
            killed.kill()
            killed.wait()
    check_addresses(new)
    assert rotate_keys(new, progress=ignore_progress).is_complete
    check_addresses(new)


def is_waiting(execute: Execute) -> bool:
    """Return whether an UPDATE of users waits for a lock."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'UPDATE users'"
    return bool(execute(waiting))


def test_the_command_reports_unused_and_missing_keys(
    old: EnhancedDatabaseService,
    settings: Settings,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command lists unused keys, missing keys and damaged addresses.

    It exits with 1 while an address is not encrypted with the new key.
    """
    assert old.reencrypt_users().changed == 0

    def run(*lines: str) -> tuple[int, list[str]]:
        for name, value in build_environment(with_keys(settings, *lines)).items():
            monkeypatch.setenv(name, value)
        ended = CliRunner().invoke(main, ["rotate-keys"])
        return ended.exit_code, ended.stdout.splitlines()

    status, lines = run(NEW)
    assert status == 1
    assert lines[0] == "encrypted 0 e-mail addresses with the key new"
    assert lines[1].startswith(f"{USERS} addresses have the key tests, which ENCRYPTION_KEYS lacks;")
    assert lines[2].startswith(f"{USERS} addresses cannot be decrypted, of users 0")

    [(damaged,)] = execute(
        "UPDATE users SET email = email || 'A' WHERE username = 'player-07' RETURNING id::text"
    )
    status, lines = run(NEW, KEYS)
    assert (status, lines) == (
        1,
        [
            f"encrypted {USERS - 1} e-mail addresses with the key new",
            "1 addresses still have the key tests; keep its line",
            f"1 addresses cannot be decrypted, of users {damaged}",
        ],
    )
    execute("UPDATE users SET email = NULL, email_index = NULL WHERE username = 'player-07'")
    assert run(NEW, KEYS) == (
        0,
        [
            "encrypted 0 e-mail addresses with the key new",
            "the key tests is no longer used; remove its line once every process encrypts with new",
        ],
    )
    monkeypatch.delenv("ENCRYPTION_KEYS")
    ended = CliRunner().invoke(main, ["rotate-keys"])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "ENCRYPTION_KEYS is not set" in ended.stderr
