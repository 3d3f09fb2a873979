"""Tests of the exporter over HTTP: metrics, the health document and its process."""

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import bcrypt
import httpx2
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.testclient import TestClient

from core import EnhancedDatabaseService, Settings
from core.stack.ports import find_free_port
from exporter import exposition
from exporter.server import build_app
from tests.conftest import Execute
from tests.exporter_server import LOCAL_URL, write_tls
from tests.patience import stretch


@pytest.fixture
def client(service: EnhancedDatabaseService) -> Iterator[TestClient]:
    """Yield a client of the exporter of a healthy stack."""
    with TestClient(build_app(service), base_url=LOCAL_URL) as client:
        yield client


def parse(text: str) -> dict[str, Metric]:
    """Return the metric families of a scrape by name."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    """Return the value of the sample with this name and exactly these labels."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    raise AssertionError(f"no {name} {labels}")


def without_database(settings: Settings) -> Settings:
    """Return settings with a database URL on which no server listens."""
    url = SecretStr(f"postgresql://echo:s3cr3t@127.0.0.1:{find_free_port()}/echo")
    return settings.model_copy(update={"database_url": url})


def without_redis(settings: Settings) -> Settings:
    """Return settings with a Redis URL on which no server listens."""
    return settings.model_copy(update={"redis_url": SecretStr(f"redis://127.0.0.1:{find_free_port()}/0")})


def test_health_document_of_a_healthy_stack(client: TestClient) -> None:
    """For a healthy stack the document has status 200, the documented keys and `healthy` everywhere."""
    response = client.get("/api/health/database")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert set(document) == {"status", "timestamp", "services"}
    assert document["status"] == "healthy"
    assert datetime.fromisoformat(document["timestamp"]).tzinfo is not None
    database, redis = document["services"]["database"], document["services"]["redis"]
    assert database["status"] == "healthy"
    assert database["connectionPool"]["maxConnections"] == 10
    assert database["connectionPool"]["status"] == "healthy"
    assert (redis["status"], redis["enabled"]) == ("healthy", True)


def test_a_scrape_has_the_counts_of_the_service(service: EnhancedDatabaseService, client: TestClient) -> None:
    """A scrape has the service's cache, pool and operation counts under the documented names."""
    user = service.create_user(username="alice")
    for _ in range(3):
        service.get_user_by_id(user.id)
    text = client.get("/metrics").text
    tiers = [{"cache": "user", "tier": tier, "role": "job"} for tier in ("near", "shared")]
    assert sum(value(text, "echo_cache_hits_total", **tier) for tier in tiers) == 2
    assert value(text, "echo_cache_misses_total", **tiers[1]) == 1
    for tier in tiers:
        hits, misses = (value(text, f"echo_cache_{name}_total", **tier) for name in ("hits", "misses"))
        assert value(text, "echo_cache_requests_total", **tier) == hits + misses
    assert value(text, "echo_db_pool_max_connections", role="job") == 10
    assert value(text, "echo_db_pool_connections", role="job", state="idle") == 1
    assert value(text, "echo_db_operation_duration_seconds_count", op="create_user", role="job") == 1
    for collector in ("processes", "health", "build"):
        assert value(text, "echo_scrape_collector_success", collector=collector) == 1


def test_a_failing_collector_does_not_fail_the_scrape(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one collector fails, a scrape has the other metrics, and the collector's success metric is 0."""

    def fail() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(exposition, "_collect_build", fail)
    response = client.get("/metrics")
    assert response.status_code == 200
    assert value(response.text, "echo_scrape_collector_success", collector="build") == 0
    assert value(response.text, "echo_scrape_collector_success", collector="health") == 1
    assert "echo_db_pool_max_connections" in response.text


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/metrics/x", "/api", "/api/health", "/healthz"])
def test_unknown_paths_are_404(client: TestClient, path: str) -> None:
    """An unknown path is answered with 404, so a wrong probe path does not look alive."""
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/metrics", "/api/health/database", "/livez", "/readyz"])
def test_any_other_method_is_405(client: TestClient, path: str) -> None:
    """POST is answered with 405, because the exporter only reads."""
    assert client.post(path).status_code == 405


def test_no_metric_is_emitted_twice(client: TestClient) -> None:
    """No two samples of a scrape have the same name and labels.

    prometheus_client writes duplicates without an error, and Prometheus drops such a scrape.
    """
    samples = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    ]
    assert len(samples) == len(set(samples))


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process that uses the test's servers."""
    assert settings.redis_password is not None
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "REDIS_PASSWORD": settings.redis_password.get_secret_value(),
        "METRICS_DIR": str(tmp_path / "metrics"),
        "EXPORTER_PORT": str(find_free_port()),
    }


def test_the_process_serves_the_fleet_and_stops_on_sigterm(
    environment: dict[str, str], repository: Path, execute: Execute
) -> None:
    """The exporter shows counters of other processes, and drops the gauges of a killed one.

    After SIGTERM it exits with 0 and leaves no database connection.
    """
    url = f"http://127.0.0.1:{environment['EXPORTER_PORT']}"
    with subprocess.Popen([sys.executable, "-m", "exporter"], cwd=repository, env=environment) as exporter:
        try:
            get_when_up(f"{url}/readyz")
            work = (
                "import time; from core import open_service; s = open_service(role='simulator');"
                "s.search_users('a'); print('done', flush=True); time.sleep(60)"
            )
            worker = subprocess.Popen(
                [sys.executable, "-c", work],
                cwd=repository,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert worker.stdout is not None
            assert worker.stdout.readline() == "done\n"
            # a process publishes its metrics once a second
            deadline = time.monotonic() + stretch(5)
            text = ""
            while "simulator" not in text or not value(
                text, "echo_db_pool_connections", role="simulator", state="idle"
            ):
                assert time.monotonic() < deadline, text
                text = httpx2.get(f"{url}/metrics").text
            assert value(text, "echo_db_pool_connections", role="simulator", state="idle") == 1
            assert value(text, "echo_metrics_writers", role="simulator") == 1
            worker.kill()
            worker.wait()
            worker.stdout.close()
            text = httpx2.get(f"{url}/metrics").text
            assert 'echo_db_pool_connections{role="simulator"' not in text
            labels = {"op": "search_users", "role": "simulator"}
            assert value(text, "echo_db_operation_duration_seconds_count", **labels) == 1
        finally:
            exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(10) == 0
    named = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'echo-markets-%'"
    assert execute(f"{named} AND datname = current_database()") == [(0,)]


def test_a_wrong_setting_is_one_line_and_status_2(environment: dict[str, str], repository: Path) -> None:
    """An invalid EXPORTER_PORT ends the process with status 2 and one line on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "exporter"],
        cwd=repository,
        env={**environment, "EXPORTER_PORT": "http"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "EXPORTER_PORT is 'http', which is not allowed; set it to a port from 1 to 65535\n"


def get_when_up(url: str, trusting: ssl.SSLContext | None = None) -> httpx2.Response:
    """Request the URL until a server accepts the connection, and return its response."""
    transport = httpx2.HTTPTransport(retries=0, verify=trusting or True)
    with httpx2.Client(transport=transport) as client:
        for _ in range(300):
            try:
                return client.get(url)
            except httpx2.ConnectError:
                signal.sigtimedwait([], 0.1)
    raise AssertionError(f"{url} never answered")


def test_the_web_config_sets_tls_and_passwords(
    environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    """With EXPORTER_WEB_CONFIG the exporter uses HTTPS, and `/metrics` needs the password.

    Probes need no password. Plain HTTP is refused.
    """
    authority = write_tls(tmp_path)
    digest = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(
        "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n"
        f"basic_auth_users: {{alice: {digest}}}\n",
        encoding="utf-8",
    )
    environment["EXPORTER_WEB_CONFIG"] = str(tmp_path / "web.yml")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    url = f"https://127.0.0.1:{environment['EXPORTER_PORT']}"
    with subprocess.Popen([sys.executable, "-m", "exporter"], cwd=repository, env=environment) as exporter:
        try:
            assert get_when_up(f"{url}/readyz", trusting).text == "ready\n"
            assert httpx2.get(f"{url}/metrics", verify=trusting).status_code == 401
            text = httpx2.get(f"{url}/metrics", verify=trusting, auth=("alice", "open sesame")).text
            assert value(text, "echo_scrape_collector_success", collector="postgres_activity") == 1
            assert value(text, "echo_scrape_collector_success", collector="redis") == 1
            with pytest.raises(httpx2.TransportError):
                httpx2.get(url.replace("https", "http"))
        finally:
            exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(10) == 0


def test_a_wrong_web_config_is_one_line_and_status_2(
    environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    """An invalid web config ends the process with status 2, because it must not run unprotected."""
    (tmp_path / "web.yml").write_text("basic_auth_user: {alice: x}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "exporter"],
        cwd=repository,
        env={**environment, "EXPORTER_WEB_CONFIG": str(tmp_path / "web.yml")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the key 'basic_auth_user', which is none of tls_server_config, basic_auth_users" in done.stderr
    assert done.stderr.count("\n") == 1
