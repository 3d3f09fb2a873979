"""`make up MODE=docker`: the stack in containers; skipped without a container engine or its images.

The tests share one stack and run in any order: each test first runs `make up`, which is quick if the stack is
already up.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from core.settings.texts import LOOPBACK
from core.stack.compose import ONE_SHOT, SERVICES
from core.stack.ports import is_port_free
from core.stack.processes import wait_until
from core.stack.profiles import SERVICES as PROFILES
from core.stack.profiles import list_files
from tests.end_to_end.browsing import visit
from tests.end_to_end.checkout import PLAYERS, SESSIONS, Checkout
from tests.end_to_end.containers import (
    PROJECT,
    PROJECT_LABEL,
    assert_is_restricted,
    docker,
    inspect,
    is_healthy,
    kill_process,
    run_checkout,
)
from tests.patience import stretch

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]

SCRAPE_SECONDS = 60
HEAL_SECONDS = 60
RULES = ("recording_rules.yml", "alerts.yml")
STAYING = sorted(SERVICES - ONE_SHOT)
SERVER_PORTS = {"postgres": 5432, "redis": 6379}
# A checksum of ended sessions: a running simulator still changes today's.
LEADERBOARDS = """
    SELECT md5(string_agg(concat_ws(',', category, session_date, user_id, score), ';'
                          ORDER BY category, session_date, user_id))
    FROM leaderboard_entries WHERE session_date < current_date - 1"""
FIND_OPEN = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
        print(address)
    except OSError:
        pass"""


def run_in(network: str, code: str, *arguments: str) -> str:
    """Run Python in a new container on one network of the stack; return the output."""
    image = f"{PROJECT}-app"
    return docker("run", "--rm", "--network", f"{PROJECT}_{network}", image, "python", "-c", code, *arguments)


def is_exporter_scraped(checkout: Checkout, scheme: str = "http") -> bool:
    """Return whether Prometheus scrapes the exporter with this scheme (http or https)."""
    answer = json.loads(checkout.get("prometheus", "/api/v1/targets")[1])
    [target] = answer["data"]["activeTargets"]
    return bool(target["health"] == "up" and target["scrapeUrl"].startswith(f"{scheme}:"))


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """Yield one checkout for all tests of this module."""
    with run_checkout() as checkout:
        yield checkout


def test_everything_is_served(checkout: Checkout, browser: Browser) -> None:
    """After `make up` the stack is healthy, a page opens, and Prometheus has its target and its rules."""
    checkout.up()
    assert checkout.health()["status"] == "healthy"
    assert checkout.get("dashboard", "/readyz")[0] == 200
    assert checkout.count("users") >= PLAYERS  # more players join on the days up to today
    assert checkout.count("portfolios") >= PLAYERS * SESSIONS / 4
    page = browser.new_page()
    visit(page, f"http://{LOOPBACK}:{checkout.ports['DASHBOARD_PORT']}/")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    page.close()
    assert wait_until(lambda: is_exporter_scraped(checkout), seconds=stretch(SCRAPE_SECONDS))
    groups = json.loads(checkout.get("prometheus", "/api/v1/rules")[1])["data"]["groups"]
    assert {Path(group["file"]).name for group in groups} == set(RULES)
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    status = checkout.make("status")
    assert status.returncode == 0, status.stdout
    assert "already running" in checkout.up()


def test_containers_are_restricted(checkout: Checkout) -> None:
    """Containers run read-only, without root, without capabilities, with limits, on loopback ports."""
    checkout.up()
    for service in SERVICES - {"secrets"}:
        assert_is_restricted(checkout, service)
    user, writing = "print(open('/proc/self/status').read())", "open('/app/x', 'w')"
    inside = docker("exec", f"{PROJECT}-dashboard-1", "python", "-c", user)
    assert "CapEff:\t0000000000000000" in inside
    assert "NoNewPrivs:\t1" in inside
    assert docker("exec", f"{PROJECT}-dashboard-1", "sh", "-c", f'python -c "{writing}" 2>&1').endswith(
        "Read-only file system: '/app/x'"
    )


def test_each_container_has_its_own_secrets(checkout: Checkout) -> None:
    """Each container has only the secrets that it needs."""
    checkout.up()
    held = {name: docker("exec", f"{PROJECT}-{name}-1", "ls", "/run/secrets").split() for name in STAYING}
    assert held["postgres"] == ["postgres.password"]
    assert held["redis"] == ["redis.acl"]
    assert held["simulator"] == ["app.password", "encryption.keys", "redis.password"]
    assert set(held["exporter"]) == {"monitor.password", "redis.password"}
    assert held["prometheus"] == []


def test_only_programs_reach_the_servers(checkout: Checkout) -> None:
    """Only the network `data` reaches PostgreSQL and Redis, and no network reaches the internet."""
    checkout.up()
    servers = [
        f"{host}:{port}"
        for service, port in SERVER_PORTS.items()
        for host in (
            service,
            *(item["IPAddress"] for item in inspect(service)["NetworkSettings"]["Networks"].values()),
        )
    ]
    assert run_in("monitoring", FIND_OPEN, *servers, "1.1.1.1:53", "exporter:9100") == "exporter:9100"
    assert run_in("data_ports", FIND_OPEN, *servers, "1.1.1.1:53") == ""
    names = [f"{service}:{port}" for service, port in SERVER_PORTS.items()]
    assert run_in("data", FIND_OPEN, *names, "prometheus:9090", "1.1.1.1:53").splitlines() == names


@pytest.mark.parametrize("service", STAYING)
def test_a_killed_container_is_restarted(checkout: Checkout, service: str) -> None:
    """A container whose process gets SIGKILL, as when memory runs out, is restarted and healthy again."""
    checkout.up()
    began = kill_process(service)
    assert wait_until(lambda: is_healthy(service, after=began), seconds=stretch(HEAL_SECONDS)), docker(
        "logs", "--tail", "20", f"{PROJECT}-{service}-1"
    )
    assert wait_until(lambda: checkout.health()["status"] == "healthy", seconds=stretch(HEAL_SECONDS)), (
        checkout.health()
    )


def test_make_up_starts_containers_after_docker_kill(checkout: Checkout) -> None:
    """After `docker kill`, which the engine does not undo, the health is degraded until `make up`."""
    checkout.up()
    docker("kill", f"{PROJECT}-redis-1", f"{PROJECT}-simulator-1")
    assert wait_until(lambda: checkout.health()["status"] == "degraded", seconds=stretch(HEAL_SECONDS))
    assert checkout.make("status").returncode != 0
    checkout.up()
    assert wait_until(lambda: checkout.health()["status"] == "healthy", seconds=stretch(HEAL_SECONDS))


def test_data_survives_down_and_up(checkout: Checkout) -> None:
    """`make down` removes everything except the volumes, and the next `make up` has the same data."""
    checkout.up()
    players, portfolios = checkout.count("users"), checkout.count("portfolios")
    assert checkout.make("down").returncode == 0
    assert docker("ps", "--all", "--quiet", "--filter", PROJECT_LABEL) == ""
    assert docker("network", "ls", "--quiet", "--filter", PROJECT_LABEL) == ""
    assert [name for name, port in checkout.ports.items() if not is_port_free(port)] == []
    assert docker("volume", "ls", "--quiet", "--filter", PROJECT_LABEL) != ""
    checkout.up()
    assert checkout.count("users") >= players
    assert checkout.count("portfolios") >= portfolios


def test_profile_tls_refuses_plain_connections(checkout: Checkout) -> None:
    """With `PROFILE=tls`, PostgreSQL and Redis refuse plain connections; Prometheus scrapes over HTTPS."""
    assert checkout.make("down").returncode == 0
    refused = checkout.make("up", PROFILE="tls")
    assert refused.returncode != 0
    assert "`make certs` makes it" in refused.stdout
    assert checkout.make("certs").returncode == 0
    checkout.up(PROFILE="tls")
    try:
        status = checkout.make("status")
        assert status.returncode == 0, status.stdout
        assert wait_until(lambda: is_exporter_scraped(checkout, "https"), seconds=stretch(SCRAPE_SECONDS))
        assert checkout.count("users") >= PLAYERS
        health = checkout.run("health")
        assert health.returncode == 0, health.stdout
        assert checkout.select("SELECT bool_and(ssl) FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
        plain = docker(
            *("exec", f"{PROJECT}-postgres-1", "sh", "-c"),
            "PGSSLMODE=disable psql -h 127.0.0.1 -U postgres -c 'SELECT 1' 2>&1",
        )
        assert "no encryption" in plain
        assert docker("exec", f"{PROJECT}-redis-1", "sh", "-c", "redis-cli ping 2>&1") != "PONG"
    finally:
        assert checkout.make("down").returncode == 0


def test_compose_prints_no_warning(checkout: Checkout) -> None:
    """`docker compose config` prints no warning with any profile when no variable is set."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    together = [name for name in PROFILES if name != "tls"]
    for profiles in ([], together, *([name] for name in PROFILES)):
        paths = list_files(Path(), profiles) if profiles else []
        files = [part for path in paths for part in ("-f", str(path))]
        result = subprocess.run(
            ["docker", "compose", *files, "config", "--quiet"],
            cwd=checkout.root, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip  # one call
        assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_sign_in_secrets_are_files(checkout: Checkout) -> None:
    """Only the dashboard's container has the OIDC secrets, as files; no container shows a secret's value."""
    assert checkout.make("down").returncode == 0
    names = ("OIDC_CLIENT_SECRET", "OIDC_COOKIE_SECRET")
    values = [f"{name.lower()}-of-the-sign-in-{PROJECT}" for name in names]
    lines = [
        "OIDC_CLIENT_ID=echo",
        "OIDC_METADATA_URL=https://accounts.example.com/.well-known/openid-configuration",
        f"OIDC_REDIRECT_URI=http://{LOOPBACK}:{checkout.ports['DASHBOARD_PORT']}/oauth2callback",
        "BACKUP_KEY_FILE=backup.key",
    ]
    (checkout.root / "backup.key").write_text(base64.b64encode(bytes(32)).decode(), encoding="utf-8")
    for name, value in zip(names, values, strict=True):
        path = checkout.root / f"{name}.secret"
        path.write_text(value, encoding="utf-8")
        lines.append(f"{name}_FILE={path.name}")
    for path in (checkout.root / "backup.key", *checkout.root.glob("*.secret")):
        path.chmod(0o600)
    settings = checkout.root / ".env"
    settings.write_text("\n".join(lines), encoding="utf-8")
    try:
        checkout.up()
        shown = {service: json.dumps(inspect(service)) for service in SERVICES}
        assert [service for service, text in shown.items() if any(value in text for value in values)] == []
        held = docker("exec", f"{PROJECT}-dashboard-1", "sh", "-c", "cat /run/secrets/oidc.*")
        assert held == "".join(values)
        assert "oidc" not in docker("exec", f"{PROJECT}-simulator-1", "ls", "/run/secrets")
        # without a sign-in, a download is refused
        assert checkout.get("dashboard", "/download/retention.csv")[0] in {302, 303, 307, 401, 403}
    finally:
        settings.unlink()
        assert checkout.make("down").returncode == 0


def test_restore_after_clean_brings_the_data_back(checkout: Checkout) -> None:
    """`make clean` removes volumes and secrets; after `make restore` the leaderboards are the same."""
    checkout.up()
    before = checkout.select(LEADERBOARDS)
    players = checkout.count("users")
    assert checkout.make("backup").returncode == 0
    [file] = (checkout.root / "backups").iterdir()
    keys = (checkout.root / ".local/secrets/encryption.keys").read_bytes()
    refused = checkout.make("restore", f"FILE={file}")
    assert refused.returncode != 0
    assert "the stack is up" in refused.stdout
    assert checkout.make("clean").returncode == 0
    for kind in ("volume", "network"):
        assert docker(kind, "ls", "--quiet", "--filter", PROJECT_LABEL) == ""
    assert docker("ps", "--all", "--quiet", "--filter", PROJECT_LABEL) == ""
    assert not (checkout.root / ".local").exists()
    restored = checkout.make("restore", f"FILE={file}")
    assert restored.returncode == 0, restored.stdout
    file.unlink()
    assert checkout.select(LEADERBOARDS) == before
    assert checkout.count("users") >= players
    assert (checkout.root / ".local/secrets/encryption.keys").read_bytes() != keys
    assert checkout.make("status").returncode == 0
