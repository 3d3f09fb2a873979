"""The settings of the stack: defaults, precedence, and errors about invalid values."""

import os
import subprocess
from pathlib import Path

import pytest

from core.errors import SettingsError
from core.stack.profiles import FORM, list_profiles
from core.stack.settings import StackSettings
from core.stack.stack_env import Mode


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the stack's settings from the environment of the test."""
    for name in StackSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def write_env(root: Path, name: str, text: str) -> None:
    """Write an env file, from which settings are read."""
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_defaults_without_any_setting(tmp_path: Path) -> None:
    """Without any setting, the stack has the documented ports and no DATABASE_URL."""
    settings = StackSettings.load_for(tmp_path)
    assert settings.environment("local") == {
        "MODE": "local",
        "EXPORTER_HOST": "127.0.0.1",
        "DASHBOARD_HOST": "127.0.0.1",
        "POSTGRES_PORT": "5433",
        "VALKEY_PORT": "6380",
        "EXPORTER_PORT": "9100",
        "DASHBOARD_PORT": "8501",
        "DASHBOARD_WORKERS": "1",
    }


def test_only_the_container_stack_has_prometheus(tmp_path: Path) -> None:
    """Only the container stack has a port for Prometheus."""
    settings = StackSettings.load_for(tmp_path)
    assert settings.ports("docker").keys() - settings.ports("local").keys() == {"PROMETHEUS_PORT"}


def test_environment_overrides_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment overrides `.env`, and `.env` overrides the record of the running stack."""
    write_env(tmp_path, ".local/stack.env", "DASHBOARD_PORT=8001\nEXPORTER_PORT=8002\nVALKEY_PORT=8003\n")
    write_env(tmp_path, ".env", "DASHBOARD_PORT=8011\nEXPORTER_PORT=8012\n")
    monkeypatch.setenv("DASHBOARD_PORT", "8021")
    settings = StackSettings.load_for(tmp_path)
    assert (settings.dashboard_port, settings.exporter_port, settings.valkey_port) == (8021, 8012, 8003)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("DASHBOARD_PORT", "http", "a port from 1 to 65535"),
        ("POSTGRES_PORT", "70000", "a port from 1 to 65535"),
        ("MODE", "podman", "local or docker"),
        ("PROFILE", "tls,production", FORM),
        ("DASHBOARD_WORKERS", "0", "a whole number of processes from 1 to 64"),
        ("SEED_PLAYERS", "0", "a whole number of players from 1 to 100000"),
        ("SEED_SESSIONS", "many", "a whole number of sessions from 1 to 10000"),
        ("KEEP_DATES", "2013", "true or false"),
    ],
)
def test_invalid_value_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    """The error is one line with the variable, the value and the allowed values."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        StackSettings.load_for(tmp_path)
    assert str(caught.value) == f"{name} is '{value}', which is not allowed; set it to {allowed}"


@pytest.mark.parametrize("mode", ["local", "docker"])
def test_replica_profile_and_number_of_replicas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: Mode
) -> None:
    """PROFILE=replica means REPLICAS=1, and REPLICAS=0 removes a recorded replica."""
    monkeypatch.setenv("PROFILE", " pooler, replica")
    chosen = StackSettings.load_for(tmp_path)
    assert (chosen.profile, chosen.replicas) == ("pooler", 1)
    recorded = chosen.environment(mode)
    assert list_profiles(recorded) == chosen.list_profiles() == ("replica", "pooler")
    assert recorded["REPLICA_PORT"] == "5434"
    monkeypatch.delenv("PROFILE")
    monkeypatch.setenv("REPLICAS", "0")
    write_env(tmp_path, ".local/stack.env", "".join(f"{name}={text}\n" for name, text in recorded.items()))
    assert StackSettings.load_for(tmp_path).list_profiles() == ("pooler",)


@pytest.mark.parametrize("profile", ["replica", "pooler", "sentinel"])
def test_a_profile_without_certificates_is_refused_with_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str
) -> None:
    """PROFILE=tls is refused together with a profile whose connections cannot be encrypted."""
    monkeypatch.setenv("PROFILE", f"tls,{profile}")
    with pytest.raises(SettingsError, match=f"PROFILE=tls does not go together with {profile}"):
        StackSettings.load_for(tmp_path)


def test_dashboards_are_recorded_with_profile_scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """DASHBOARDS is recorded only with PROFILE=scale, where another number must restart the stack."""
    monkeypatch.setenv("DASHBOARDS", "3")
    assert "DASHBOARDS" not in StackSettings.load_for(tmp_path).environment("docker")
    monkeypatch.setenv("PROFILE", "scale")
    assert StackSettings.load_for(tmp_path).environment("docker")["DASHBOARDS"] == "3"


def test_one_port_for_two_servers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers with the same port are refused before any server starts."""
    monkeypatch.setenv("DASHBOARD_PORT", "9100")
    with pytest.raises(SettingsError, match="DASHBOARD_PORT is 9100, and EXPORTER_PORT is too"):
        StackSettings.load_for(tmp_path)


def test_make_passes_workers_to_the_dashboard(repository: Path) -> None:
    """`make up WORKERS=2` sets DASHBOARD_WORKERS; WORKERS in the environment, which tests use, does not."""

    def plan(*arguments: str, **variables: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", "up", "VENV=anywhere", *arguments]
        environment = {"PATH": os.environ["PATH"], **variables}
        return subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert plan("WORKERS=2") == "DASHBOARD_WORKERS='2' anywhere/bin/python -m core.cli stack up\n"
    assert plan(WORKERS="2") == plan() == "anywhere/bin/python -m core.cli stack up\n"


@pytest.mark.parametrize("workers", ["2", "2 3", "2; exit 7", "2'", "'$HOME'", "`exit 7`", "2#", ""])
def test_make_passes_workers_unchanged(repository: Path, tmp_path: Path, workers: str) -> None:
    """The Makefile passes any text of WORKERS unchanged, so that the program's error can show it."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf %s "$DASHBOARD_WORKERS"\n')
    python.chmod(0o755)
    # make reads two dollar signs as one
    given = workers.replace("$", "$$")
    run = subprocess.run(
        ["make", "--no-print-directory", "up", f"VENV={tmp_path}", f"WORKERS={given}"],
        cwd=repository,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == workers


@pytest.mark.parametrize("value", ["7", "two", "-1"])
def test_an_invalid_number_of_replicas_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    """An invalid REPLICAS is refused, although PROFILE=replica already decides the number."""
    monkeypatch.setenv("PROFILE", "replica")
    monkeypatch.setenv("REPLICAS", value)
    with pytest.raises(SettingsError, match=f"REPLICAS is '{value}', which is not allowed"):
        StackSettings.load_for(tmp_path)
