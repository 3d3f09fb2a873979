"""The local stack's database roles and secrets, and `make` when files in `.local` are damaged or missing.

The stack starts on data of the previous release, in which every program was superuser.
"""

import os
import re
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from dotenv import dotenv_values
from pydantic import SecretStr

from core import Settings
from core.database.roles import APP, MONITOR, OWNER
from core.migration import Migrator
from core.stack.embedded_servers import open_cursor
from core.stack.processes import wait_until
from core.testing import run_postgres
from tests.end_to_end.checkout import PLAYERS, Checkout, assert_nothing_left, copy_checkout
from tests.patience import stretch

pytestmark = pytest.mark.slow

PASSWORDS = ("postgres", "owner", "app", "monitor", "redis")
USERS = """
    SELECT DISTINCT application_name, usename::text FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND application_name LIKE 'echo-markets-%'"""


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """Yield a copy of the checkout with a database of the previous release."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        checkout = copy_checkout(Path(folder) / "checkout")
        servers = checkout.root / ".local/servers"
        with run_postgres(servers) as server:
            with open_cursor(server.url()) as cursor:
                cursor.execute("CREATE DATABASE echo_markets")
                cursor.execute("ALTER SYSTEM SET log_statement = 'all'")
            url = server.url("echo_markets")
            Migrator(Settings(database_url=SecretStr(url))).up()
            with open_cursor(url) as cursor:
                cursor.execute("INSERT INTO market_events (type, title) VALUES ('NEWS', 'previous release')")
        yield checkout
        result = checkout.make("clean")
        assert result.returncode == 0, result.stdout
        assert_nothing_left(checkout)


def test_a_database_of_the_previous_release_is_kept(checkout: Checkout) -> None:
    """`make up` keeps the rows of the previous release's database, and gives its tables to the owner role."""
    checkout.up()
    assert checkout.select("SELECT count(*) FROM market_events WHERE title = 'previous release'") == 1
    assert checkout.count("users") >= PLAYERS
    owners = (
        "SELECT string_agg(DISTINCT relowner::regrole::text, ',') FROM pg_class WHERE relname = ANY('{}')"
    )
    names = "users,ticks,ticks_before,symbols,trades,schema_migration"
    assert checkout.select(owners.format(f"{{{names}}}")) == OWNER


def test_each_program_has_its_role(checkout: Checkout) -> None:
    """No program connects as superuser or owner role; the simulator has the application role."""
    checkout.up()
    found: dict[str, str] = {}

    def is_seen() -> bool:
        with open_cursor(checkout.superuser_url()) as cursor:
            cursor.execute(USERS)
            found.update(cursor.fetchall())
        return found.keys() >= {"echo-markets-exporter", "echo-markets-dashboard", "echo-markets-simulator"}

    checkout.get("dashboard", "/")
    wait_until(is_seen, seconds=stretch(15))
    assert found["echo-markets-simulator"] == APP
    assert {user for name, user in found.items() if "exporter" in name or "health" in name} <= {MONITOR, APP}
    assert set(found.values()) <= {APP, MONITOR}
    assert checkout.health()["status"] == "healthy"


def test_faults_cause_no_lost_write_and_no_stale_read(checkout: Checkout) -> None:
    """With the application role, two faults of `make chaos-all` cause no lost write and no stale read."""
    checkout.up()
    faults = ("everything paused", "postgres killed")
    result = checkout.python("-m", "tests.chaos.local", *(f"--only={fault}" for fault in faults))
    assert result.returncode == 0, result.stdout
    rows = [re.split("  +", line.strip()) for line in result.stdout.splitlines()]
    lost_and_stale = {row[0]: tuple(row[3:5]) for row in rows if row[0] in faults}
    assert lost_and_stale == dict.fromkeys(faults, ("0", "0"))


def test_secrets_are_only_in_private_files(checkout: Checkout) -> None:
    """The stack's record contains no secret, and only the owner can read the secret files."""
    checkout.up()
    folder = checkout.root / ".local/secrets"
    files = [*folder.iterdir(), checkout.root / ".local/servers/postgres.password"]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files}
    assert (stat.S_IMODE(folder.stat().st_mode), modes) == (0o700, {0o600})
    record = (checkout.root / ".local/stack.env").read_text(encoding="utf-8")
    secrets = [path.read_text(encoding="utf-8") for path in files]
    assert {path.name for path in files} >= {f"{name}.password" for name in PASSWORDS}
    assert len(set(secrets)) == len(files)
    assert [secret for secret in secrets if secret in record] == []
    recorded = dotenv_values(checkout.root / ".local/stack.env")
    accounts = [str(recorded[name]).partition("@")[0] for name in ("DATABASE_URL", "DIRECT_URL", "ADMIN_URL")]
    assert accounts == [f"postgresql://{user}" for user in (APP, OWNER, "postgres")]


def test_no_secret_is_in_a_log(checkout: Checkout) -> None:
    """No log contains a secret, although PostgreSQL logs every statement (`log_statement = all`)."""
    checkout.up()
    local = checkout.root / ".local"
    secrets = {
        path: path.read_text(encoding="utf-8").strip().rpartition(":")[2]
        for path in (*(local / "secrets").iterdir(), local / "servers/postgres.password")
    }
    logs = [path.read_text(encoding="utf-8", errors="replace") for path in (local / "log").rglob("*.log*")]
    assert any("LOG:  statement: " in log for log in logs)
    assert [path for path, secret in secrets.items() if any(secret in log for log in logs)] == []


def test_removed_password_files_give_new_passwords(checkout: Checkout) -> None:
    """If password files are removed while the stack is down, `make up` creates and uses new passwords."""
    checkout.up()
    folder = checkout.root / ".local/secrets"
    old = (folder / "app.password").read_text(encoding="utf-8")
    assert checkout.make("down").returncode == 0
    for name in ("app.password", "owner.password", "monitor.password", "redis.password"):
        (folder / name).unlink()
    checkout.up()
    assert (folder / "app.password").read_text(encoding="utf-8") != old
    assert checkout.make("status").returncode == 0
    url = f"postgresql://{APP}@127.0.0.1:{checkout.ports['POSTGRES_PORT']}/echo_markets"
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(url, password=old)


def test_down_works_with_a_damaged_record(checkout: Checkout) -> None:
    """With a damaged record, `status`, `up` and `migrate` name `make down`, which stops everything."""
    checkout.up()
    record = checkout.root / ".local/stack.env"
    record.write_bytes(b"\xff\x00 junk")
    for target in ("status", "up", "migrate"):
        result = checkout.make(target)
        assert result.returncode != 0
        assert "Traceback" not in result.stdout
        [line] = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
        assert "stack.env is damaged" in line
        assert "`make down` stops what runs" in line
    down = checkout.make("down")
    assert (down.returncode, "Traceback" in down.stdout) == (0, False), down.stdout
    assert_nothing_left(checkout)


def test_down_stops_programs_without_pid_files(checkout: Checkout) -> None:
    """`make down` stops programs whose supervisor was killed and whose pid files are removed."""
    checkout.up()
    os.kill(checkout.pid("supervisor"), signal.SIGKILL)
    for path in (checkout.root / ".local/run").iterdir():
        path.unlink()
    status = checkout.make("status")
    assert status.returncode != 0
    assert "its programs still run" in status.stdout
    assert checkout.make("down").returncode == 0
    assert_nothing_left(checkout)


def test_a_stack_without_its_record_is_reported(checkout: Checkout) -> None:
    """Without its record and supervisor pid file, a stack is reported by `status` and stopped by `down`."""
    checkout.up()
    for name in ("stack.env", "supervisord.pid"):
        (checkout.root / ".local" / name).unlink()
    status = checkout.make("status")
    assert status.returncode != 0
    assert "stack.env is missing, but" in status.stdout
    assert checkout.make("down").returncode == 0
    assert_nothing_left(checkout)


def test_a_file_in_place_of_the_metrics_folder_is_reported(checkout: Checkout) -> None:
    """If the metrics folder is a file, `make up` names it and starts nothing."""
    checkout.make("down")
    metrics = checkout.root / ".local/metrics"
    metrics.rename(metrics.with_name("kept"))
    metrics.touch()
    try:
        result = checkout.make("up")
    finally:
        metrics.unlink()
        metrics.with_name("kept").rename(metrics)
    assert result.returncode != 0
    assert "metrics is no folder; remove or rename it" in result.stdout
    assert "Traceback" not in result.stdout
    assert_nothing_left(checkout)
