"""`make up` and the other `make` targets of the local stack, in a new copy of the checkout.

The tests share one stack and run in any order: each test first brings the stack into the state that it needs,
with `make up` or `make down`.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port, is_port_free
from core.stack.processes import wait_until
from tests.end_to_end.checkout import PLAYERS, SESSIONS, Checkout, assert_nothing_left, copy_checkout
from tests.patience import stretch

pytestmark = pytest.mark.slow

RESTART_SECONDS = 20  # limit for each `make up` after the first one
RESTARTS = 3


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """Yield a copy of the checkout; at the end, assert that `make clean` leaves nothing of its stack."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        checkout = copy_checkout(Path(folder) / "checkout")
        yield checkout
        result = checkout.make("clean")
        assert result.returncode == 0, result.stdout
        assert_nothing_left(checkout)


def restart(checkout: Checkout) -> float:
    """Stop the stack, assert that nothing of it is left, and return the seconds that a new start takes."""
    assert checkout.make("down").returncode == 0
    assert_nothing_left(checkout)
    started = time.monotonic()
    checkout.up()
    return time.monotonic() - started


def test_help_lists_the_targets(checkout: Checkout) -> None:
    """`make` without a target lists the other targets."""
    shown = checkout.make().stdout
    targets = "up down status logs clean test check migrate seed bench lint format lock"
    assert [name for name in targets.split() if f"make {name} " not in shown] == []


def test_up_starts_a_healthy_stack_with_players(checkout: Checkout) -> None:
    """After `make up`, dashboard and exporter answer, and the database has players and portfolios."""
    shown = checkout.up()
    assert f"http://{LOOPBACK}:{checkout.ports['DASHBOARD_PORT']}" in shown
    assert checkout.get("dashboard", "/")[0] == 200
    assert checkout.get("dashboard", "/readyz")[0] == 200
    assert "echo_service_up" in checkout.get("exporter", "/metrics")[1]
    assert checkout.health()["status"] == "healthy"
    assert checkout.count("users") >= PLAYERS  # more players join on the days up to today
    assert checkout.count("portfolios") >= PLAYERS * SESSIONS / 4  # no player plays every day


def test_keep_dates_replays_sessions_on_their_own_days() -> None:
    """`make up KEEP_DATES=1` replays the last imported sessions on their own days."""
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        checkout = copy_checkout(Path(folder) / "checkout")
        try:
            assert checkout.make("up", "KEEP_DATES=1").returncode == 0
            assert checkout.select("SELECT min(date(timestamp))::text FROM ticks") == "2000-03-01"
            sessions = (
                "SELECT count(DISTINCT session_date) FROM portfolios WHERE session_date <= '2013-03-01'"
            )
            assert checkout.select(sessions) == SESSIONS
            assert checkout.make("status").returncode == 0
        finally:
            assert checkout.make("clean").returncode == 0


def test_second_up_changes_nothing(checkout: Checkout) -> None:
    """A second `make up` prints that the stack is already running and restarts no program."""
    checkout.up()
    programs = ("postgres", "valkey", "exporter", "dashboard", "simulator", "supervisor")
    before = [checkout.pid(name) for name in programs]
    started = time.monotonic()
    assert "already running" in checkout.up()
    assert time.monotonic() - started < stretch(RESTART_SECONDS)
    assert [checkout.pid(name) for name in programs] == before


@pytest.mark.parametrize("name", ["postgres", "dashboard", "simulator"])
def test_a_killed_program_is_restarted(checkout: Checkout, name: str) -> None:
    """A killed program is restarted, and `make up` returns once the stack is healthy."""
    checkout.up()
    before = checkout.pid(name)
    os.kill(before, signal.SIGKILL)
    checkout.up()
    assert checkout.pid(name) != before
    assert checkout.make("status").returncode == 0
    assert checkout.health()["status"] == "healthy"


def test_up_repairs_a_killed_supervisor(checkout: Checkout) -> None:
    """After the supervisor is killed, `make up` starts a complete stack again and keeps the data."""
    checkout.up()
    players = checkout.count("users")
    os.kill(checkout.pid("supervisor"), signal.SIGKILL)
    status = checkout.make("status")
    assert status.returncode != 0
    assert "`make up` repairs it" in status.stdout
    checkout.up()
    assert checkout.make("status").returncode == 0
    assert checkout.count("users") == players


def test_down_stops_everything_and_keeps_the_data(checkout: Checkout) -> None:
    """`make down` leaves no process and no used port; the next `make up` is quick and has the data."""
    checkout.up()
    players, portfolios = checkout.count("users"), checkout.count("portfolios")
    # one quick restart of three is enough, because other programs may delay single restarts
    assert any(restart(checkout) < stretch(RESTART_SECONDS) for _ in range(RESTARTS))
    assert checkout.count("users") == players
    assert checkout.count("portfolios") >= portfolios


def test_down_twice_is_no_error(checkout: Checkout) -> None:
    """`make down` succeeds when nothing is running."""
    checkout.make("down")
    result = checkout.make("down")
    assert (result.returncode, result.stdout.strip()) == (0, "nothing is running")


def test_down_stops_programs_without_a_supervisor(checkout: Checkout) -> None:
    """`make down` also stops programs whose supervisor was killed."""
    checkout.up()
    os.kill(checkout.pid("supervisor"), signal.SIGKILL)
    assert checkout.make("down").returncode == 0
    assert_nothing_left(checkout)


def test_down_spares_other_processes(checkout: Checkout) -> None:
    """`make down` and `make up` do not stop another program whose process id is in an old pid file."""
    checkout.up()
    checkout.make("down")
    with subprocess.Popen(["sleep", "60"]) as other:
        (checkout.root / ".local/run/exporter.pid").write_text(f"{other.pid}\n", encoding="utf-8")
        (checkout.root / ".local/supervisord.pid").write_text(f"{other.pid}\n", encoding="utf-8")
        checkout.make("down")
        assert other.poll() is None
        checkout.up()
        assert other.poll() is None
        other.kill()


def test_interrupted_up_can_be_stopped(checkout: Checkout) -> None:
    """After Ctrl-C during `make up`, `make down` stops everything that was started."""
    checkout.make("clean")
    pid_file = checkout.root / ".local/run/postgres.pid"
    with subprocess.Popen(
        ["make", "up"],
        cwd=checkout.root,
        env=checkout.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert wait_until(lambda: pid_file.exists() and pid_file.stat().st_size > 0, seconds=60)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) != 0
    assert checkout.make("down").returncode == 0
    assert_nothing_left(checkout)


def test_a_taken_port_is_reported_before_the_start(checkout: Checkout) -> None:
    """If a port is taken, `make up` names the port and its setting and starts nothing."""
    checkout.make("down")
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        result = checkout.make("up", DASHBOARD_PORT=str(port))
    assert result.returncode != 0
    assert f"port {port} is taken; set DASHBOARD_PORT to a free one" in result.stdout
    assert_nothing_left(checkout)


def test_a_wrong_setting_is_reported_in_one_line(checkout: Checkout) -> None:
    """An invalid setting is reported in one line, without a traceback."""
    result = checkout.make("up", EXPORTER_PORT="metrics")
    assert result.stdout.splitlines()[0] == (
        "error: EXPORTER_PORT is 'metrics', which is not allowed; set it to a port from 1 to 65535"
    )
    assert "Error 2" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_changed_port_moves_the_exporter(checkout: Checkout) -> None:
    """`make up` with another EXPORTER_PORT moves the exporter to this port."""
    checkout.up()
    port = find_free_port()
    assert f":{port}" in checkout.up(EXPORTER_PORT=str(port))
    assert not is_port_free(port)
    assert is_port_free(checkout.ports["EXPORTER_PORT"])


def test_two_checkouts_run_side_by_side(checkout: Checkout) -> None:
    """Stacks of two checkouts run side by side, and `make clean` of one does not stop the other."""
    checkout.up()
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        other = copy_checkout(Path(folder) / "checkout")
        try:
            other.up()
            assert checkout.make("status").returncode == 0
            assert other.count("users") >= PLAYERS
        finally:
            assert other.make("clean").returncode == 0
        assert_nothing_left(other)
    assert checkout.make("status").returncode == 0


def test_an_old_record_does_not_lead_to_another_stack(checkout: Checkout) -> None:
    """Commands of a checkout with an old record refuse to use another checkout's stack on the same ports."""
    checkout.up()
    with tempfile.TemporaryDirectory(prefix="echo-markets-") as folder:
        other = copy_checkout(Path(folder) / "checkout")
        other.environment |= {name: str(port) for name, port in checkout.ports.items()}
        record = (checkout.root / ".local/stack.env").read_text(encoding="utf-8")
        (other.root / ".local").mkdir()
        stale = re.sub(r"STACK_NAME='.*'", "STACK_NAME='yesterday-1a2b3c'", record)
        (other.root / ".local/stack.env").write_text(stale, encoding="utf-8")
        health = other.run("health")
        migrate = other.make("migrate")
        status = other.make("status")
    own = checkout.run("health")
    [name] = re.findall(r"^STACK_NAME='(.*)'$", record, re.MULTILINE)
    assert (own.returncode, f"the exporter of stack {name}@" in own.stdout) == (0, True), own.stdout
    assert health.returncode == 2
    assert f"belongs to the stack {name}@" in health.stdout
    assert "the stack yesterday-1a2b3c@" in health.stdout
    for refused in (migrate, status):
        assert refused.returncode != 0
        assert f"belongs to another stack, {name}@" in refused.stdout


def test_up_notes_a_database_url_that_the_stack_ignores(checkout: Checkout) -> None:
    """If `.env` sets DATABASE_URL, `make up` uses its own PostgreSQL and says so, without the password."""
    checkout.make("down")
    file = checkout.root / ".env"
    url = f"postgresql://alice:s3cr3t@127.0.0.1:{find_free_port()}/game"
    file.write_text(f"DATABASE_URL={url}\nDIRECT_URL={url}\n", encoding="utf-8")
    try:
        shown = checkout.up()
        assert checkout.health()["status"] == "healthy"
        used = checkout.run("migrate", "status")
        migrate = checkout.make("migrate", "ARGS=status")
    finally:
        file.unlink()
    [note] = [line for line in shown.splitlines() if line.startswith("note: ")]
    assert f"this stack uses the database 127.0.0.1:{checkout.ports['POSTGRES_PORT']}/echo_markets" in note
    assert "DATABASE_URL in .env is 127.0.0.1:" in note
    assert "s3cr3t" not in shown
    assert (used.returncode, "Connection refused" in used.stdout) == (1, True)
    assert migrate.returncode == 0, migrate.stdout
    assert "note: " not in checkout.up()


def test_logs_show_the_output_of_programs(checkout: Checkout) -> None:
    """`make logs` shows the output of all programs, and with NAME the output of one program."""
    checkout.up()
    # makes PostgreSQL write a known line, which is then the newest
    checkout.select("SELECT pg_reload_conf()")
    assert "received SIGHUP" in checkout.make("logs").stdout
    assert "received SIGHUP" not in checkout.make("logs", "NAME=valkey").stdout
    assert "choose one of" in checkout.make("logs", "NAME=nobody").stdout


def test_migrate_acts_on_the_running_stack(checkout: Checkout) -> None:
    """`make migrate` uses the running stack's database."""
    checkout.up()
    result = checkout.make("migrate", "ARGS=status")
    assert result.returncode == 0, result.stdout
    assert "applied" in result.stdout


def test_seed_does_not_replace_played_sessions(checkout: Checkout) -> None:
    """`make seed` refuses to replace sessions that were played, unless it has `--replace`."""
    checkout.up()
    refused = checkout.make("seed", "ARGS=--players 3 --sessions 2")
    assert refused.returncode != 0
    assert "that no seed has made" in refused.stdout
    assert checkout.count("users") >= PLAYERS
    replaced = checkout.make("seed", "ARGS=--players 3 --sessions 2 --replace")
    assert replaced.returncode == 0, replaced.stdout
    again = checkout.make("seed", f"ARGS=--players {PLAYERS} --sessions {SESSIONS} --replace")
    assert again.returncode == 0, again.stdout


def test_migrate_needs_a_running_stack(checkout: Checkout) -> None:
    """Without a running stack, `make migrate` fails and names `make up`."""
    checkout.make("down")
    result = checkout.make("migrate")
    assert result.returncode != 0
    assert "`make up` starts it" in result.stdout


def test_passwords_are_not_shown(checkout: Checkout) -> None:
    """No password is in the output of `make up`, in a log or in the command line of a process."""
    shown = checkout.up()
    passwords = [
        file.read_text(encoding="utf-8").strip() for file in checkout.root.glob(".local/*/*.password")
    ]
    assert len(set(passwords)) == 5
    logs = "".join(file.read_text(encoding="utf-8") for file in checkout.root.glob(".local/log/*"))
    commands = " ".join(
        " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])
    )
    assert [text for text in (shown, logs, commands) if any(password in text for password in passwords)] == []


def test_old_python_is_refused(checkout: Checkout) -> None:
    """`make install` refuses a Python that is too old and names the variable PYTHON."""
    environment = {name: value for name, value in checkout.environment.items() if name != "VENV"}
    result = subprocess.run(
        ["make", "install", "PYTHON=false"],
        cwd=checkout.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "false is older than Python 3.11; name a newer one with PYTHON=" in result.stdout
    assert not (checkout.root / ".venv").exists()


def test_down_without_a_virtual_environment_succeeds(checkout: Checkout) -> None:
    """Without a virtual environment, `make down` succeeds with a message, and `make status` fails."""
    down, status = (checkout.make(target, VENV=str(checkout.root / "none")) for target in ("down", "status"))
    assert (down.returncode == 0, status.returncode == 0) == (True, False)
    assert "nothing is installed here" in down.stdout


# Another program that uses the stack: it reads from PostgreSQL and tries to create a username that exists.
OTHER_PROGRAM = """
import sys, time
from core import open_service
from core.errors import InvalidInput

with open_service(role=sys.argv[1]) as service:
    while True:
        service.search_users("a")
        try:
            service.create_user(username="alice")
        except InvalidInput:
            print("ready", flush=True)
        time.sleep(0.1)
"""


def test_the_pool_drill_ignores_errors_of_other_programs(checkout: Checkout) -> None:
    """Errors of other programs do not affect `make chaos-pool`: timeouts grow only during its fault."""
    checkout.up()
    with contextlib.ExitStack() as stack:
        for role in ("job", "my-api"):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", OTHER_PROGRAM, role],
                    cwd=checkout.root,
                    env={**checkout.environment, "ENABLE_REDIS_CACHE": "false"},
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        result = checkout.make("chaos-pool", "ARGS=--seconds 1")
        metrics = checkout.get("exporter", "/metrics")[1]
    assert result.returncode == 0, result.stdout
    assert "still → grows → still" in result.stdout
    assert 'echo_db_pool_max_connections{role="my-api"} 10.0' in metrics
    assert 'echo_pg_connections{application="my-api",state="idle"} 1.0' in metrics
