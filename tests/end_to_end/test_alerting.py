"""A real Prometheus scrapes a real exporter and evaluates the shipped alert and recording rules."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from core.migration import Migrator
from core.settings import Settings
from core.stack.ports import find_free_port
from core.testing import run_postgres
from tests.conftest import FAST
from tests.patience import wait_until

RULES = Path(__file__).parents[2] / "exporter" / "prometheus"
DEADLINE_SECONDS = 60.0


class MonitoredDatabase:
    """PostgreSQL, an exporter, and a Prometheus that scrapes the exporter every second."""

    def __init__(self, folder: Path, prometheus: str, make_folder: Callable[[], Path]) -> None:
        self.exporter_port, self.prometheus_port = find_free_port(), find_free_port()
        self._postgres = ExitStack()
        with ExitStack() as servers:
            servers.push(self._postgres)
            self._servers = servers
            self._start(folder, prometheus, make_folder())
            # every server has started: from now on `close` stops them
            self._servers = servers.pop_all()

    def _start(self, folder: Path, prometheus: str, servers: Path) -> None:
        server = self._postgres.enter_context(run_postgres(servers, options=FAST))
        settings = Settings(database_url=server.url())  # type: ignore[arg-type]  # pydantic makes it secret
        Migrator(settings).up()
        environment = {
            **os.environ,
            "DATABASE_URL": server.url(),
            "ENABLE_REDIS_CACHE": "false",
            "METRICS_DIR": str(folder / "metrics"),
            "EXPORTER_PORT": str(self.exporter_port),
        }
        self._run([sys.executable, "-m", "exporter"], environment)
        self._run(
            [
                prometheus,
                f"--config.file={write_configuration(folder, self.exporter_port)}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.prometheus_port}",
                "--log.level=error",
            ],
            dict(os.environ),
        )

    def _run(self, command: list[str], environment: dict[str, str]) -> None:
        process = self._servers.enter_context(subprocess.Popen(command, env=environment))
        self._servers.callback(process.terminate)

    def stop_postgres(self) -> None:
        """Stop PostgreSQL; exporter and Prometheus keep running."""
        self._postgres.close()

    def close(self) -> None:
        """Stop Prometheus, the exporter and PostgreSQL."""
        self._servers.close()

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a Prometheus API call, or None while Prometheus does not answer."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/{path}?{urlencode(parameters)}"
        try:
            response = httpx2.get(url)
            return response.json()["data"] if response.status_code == 200 else None
        except (httpx2.TransportError, json.JSONDecodeError):
            return None

    def firing(self) -> set[str]:
        """Return the names of the firing alerts."""
        alerts = (self.get("alerts") or {"alerts": []})["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def query(self, expression: str) -> list[Any]:
        """Return the result of a PromQL query."""
        found = self.get("query", query=expression)
        return found["result"] if found else []


def write_configuration(folder: Path, exporter_port: int) -> Path:
    """Copy the Prometheus configuration and rules, with the test's exporter address and shorter intervals."""
    for name in ("recording_rules.yml", "alerts.yml"):
        shutil.copy(RULES / name, folder / name)
    alerts = folder / "alerts.yml"
    alerts.write_text(re.sub(r"(?m)^(\s+for:) 1m$", r"\1 2s", alerts.read_text()))
    text = (RULES / "prometheus.yml").read_text()
    changes = {
        "exporter:9100": f"127.0.0.1:{exporter_port}",
        "scrape_interval: 15s": "scrape_interval: 1s",
        "scrape_timeout: 10s": "scrape_timeout: 1s",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    configuration = folder / "prometheus.yml"
    configuration.write_text(text)
    return configuration


@pytest.fixture
def monitored(tmp_path: Path, server_directory: Callable[[], Path]) -> Iterator[MonitoredDatabase]:
    """Yield a PostgreSQL that an exporter and Prometheus monitor; skip the test without Prometheus."""
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed; install the Debian package `prometheus`")
    monitored = MonitoredDatabase(tmp_path, prometheus, server_directory)
    try:
        yield monitored
    finally:
        monitored.close()


@pytest.mark.slow
def test_a_stopped_database_fires_its_alert(monitored: MonitoredDatabase) -> None:
    """Every rule evaluates; when PostgreSQL stops, EchoDatabaseDown fires and EchoExporterAbsent does not."""
    wait_until(
        lambda: bool(monitored.query('echo_service_up{service="database"} == 1')),
        "a scrape",
        DEADLINE_SECONDS,
    )
    wait_until(lambda: all_rules_are_healthy(monitored), "every rule evaluated", DEADLINE_SECONDS)
    assert "EchoDatabaseDown" not in monitored.firing()
    monitored.stop_postgres()
    wait_until(lambda: "EchoDatabaseDown" in monitored.firing(), "the alert fires", DEADLINE_SECONDS)
    assert "EchoExporterAbsent" not in monitored.firing()


def all_rules_are_healthy(monitored: MonitoredDatabase) -> bool:
    """Return whether Prometheus has evaluated every rule of the rule files without an error."""
    written = sum(
        len(re.findall(r"(?m)^\s+- (?:alert|record): ", (RULES / name).read_text()))
        for name in ("recording_rules.yml", "alerts.yml")
    )
    groups = (monitored.get("rules") or {"groups": []})["groups"]
    healthy = [rule for group in groups for rule in group["rules"] if rule["health"] == "ok"]
    return len(healthy) == written > 0
