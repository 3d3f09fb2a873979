"""The health checks that containers run, for scheduled tasks and for HTTP servers."""

import time
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from core.metrics.registry import open_metrics
from core.settings.texts import LOOPBACK
from core.stack import probe, task_probe
from core.stack.ports import find_free_port
from tests.exporter_server import served


def test_a_task_is_healthy_while_it_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task is unhealthy before its first success and when its last success is too long ago."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1/nothing")
    monkeypatch.setenv("METRICS_DIR", str(tmp_path))
    assert task_probe.main("simulator") == 1
    assert capsys.readouterr().err == "simulator: it does not run\n"
    metrics = open_metrics("simulator", tmp_path)
    with metrics.regular_task("simulator", interval_seconds=2) as count_success:
        assert task_probe.main("simulator") == 1
        assert capsys.readouterr().err == "simulator: it has not succeeded yet\n"
        count_success()
        assert task_probe.main("simulator") == 0
        later = time.time() + 20
        monkeypatch.setattr(time, "time", lambda: later)
        assert task_probe.main("simulator") == 1
        assert "its last success was" in capsys.readouterr().err
    metrics.close()


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (404, 1)])
def test_a_server_is_healthy_if_it_answers_200(
    status: int, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probe succeeds only for status 200, and prints the body of the response."""
    with served(PlainTextResponse("the reason", status)) as port:
        assert probe.main(f"http://{LOOPBACK}:{port}/readyz") == expected
    assert capsys.readouterr().err == "the reason"


def test_an_unreachable_server_is_unhealthy(capsys: pytest.CaptureFixture[str]) -> None:
    """The probe of a closed port fails and prints the system's error message."""
    assert probe.main(f"http://{LOOPBACK}:{find_free_port()}/readyz") == 1
    assert "Connection refused" in capsys.readouterr().err
