"""What compose.yaml and the files of its profiles promise, read without an engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from core import Settings
from core.settings.secret_files import list_secrets
from core.stack.compose import ONE_SHOT, PUBLISHED, SERVICES
from core.stack.profiles import SERVICES as ADDED_SERVICES
from core.stack.profiles import list_profiles
from core.stack.secret_distribution import APPLICATION_USER, RECEIVERS
from core.stack.settings import StackSettings

ROOT = Path(__file__).resolve().parents[2]
PROFILES = tuple(ADDED_SERVICES)
DATA = {"postgres", "redis"}
VERIFIED = "sslmode=verify-full&sslrootcert=/run/secrets/ca.crt"


class _Replaced:
    """A value that compose takes instead of the extended service's, where it would add to it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Loader(yaml.SafeLoader):
    """Knows the tag of compose for such a value."""


def _construct_replaced(loader: _Loader, node: yaml.Node) -> _Replaced:
    if isinstance(node, yaml.MappingNode):
        return _Replaced(loader.construct_mapping(node, deep=True))
    assert isinstance(node, yaml.SequenceNode)
    return _Replaced(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("!override", _construct_replaced)


def read(name: str) -> Any:
    """Return a file with its anchors resolved, and the services that its services extend."""
    # a safe loader, with one more tag
    document = yaml.load((ROOT / name).read_text(encoding="utf-8"), _Loader)
    services = document.get("services", {})
    for service, given in services.items():
        base: dict[str, Any] = {}
        if "extends" in given:
            base = read(given["extends"]["file"])["services"][given["extends"]["service"]]
        services[service] = base | {
            key: value.value if isinstance(value, _Replaced) else _merge(base.get(key), value)
            for key, value in given.items()
            if key != "extends"
        }
    return document


def _merge(base: Any, given: Any) -> Any:
    """Return what compose makes of an extended value; a command is replaced."""
    return {**base, **given} if isinstance(base, dict) and isinstance(given, dict) else given


COMPOSE = read("compose.yaml")
RUNNING = COMPOSE["services"]
FILES = {profile: read(f"compose.{profile}.yaml") for profile in PROFILES}
# what the profiles add
ADDED = {
    name: FILES[profile]["services"][name] for profile, names in ADDED_SERVICES.items() for name in names
}
EVERY = RUNNING | ADDED


def list_mounts(service: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the mounts in their long form."""
    return [mount for mount in service.get("volumes", ()) if isinstance(mount, dict)]


def test_the_stack_knows_every_service() -> None:
    """`make status` and `make up` wait for each service of the compose files."""
    assert set(RUNNING) == SERVICES
    for profile, names in ADDED_SERVICES.items():
        assert set(FILES[profile]["services"]) - SERVICES == set(names), profile


def test_every_file_of_a_profile_has_a_name() -> None:
    """REPLICAS also selects the file of the replica."""
    files = {path.name.split(".")[1] for path in ROOT.glob("compose.*.yaml")}
    assert files == set(PROFILES)
    assert list_profiles({"PROFILE": ",".join(PROFILES[1:]), "REPLICAS": "1"}) == PROFILES


@pytest.mark.parametrize("name", EVERY)
def test_every_service_is_hardened(name: str) -> None:
    """Read-only, without capabilities, bounded in memory, processes and logs, not root."""
    service = EVERY[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    if name == "secrets":
        # the one that is root: it reads and gives away files, without a network
        assert service["cap_add"] == ["CHOWN", "DAC_OVERRIDE"]
        assert service["network_mode"] == "none"
    else:
        assert "cap_add" not in service
        assert not str(service.get("user", APPLICATION_USER)).startswith("0")


@pytest.mark.parametrize("name", sorted({*SERVICES - ONE_SHOT, *ADDED}))
def test_every_service_that_stays_is_probed(name: str) -> None:
    """A health check sends a request to every service that keeps running."""
    assert EVERY[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


def test_ports_are_published_on_the_loopback_interface_only() -> None:
    """Each port is published by one service, with the number from a setting."""
    ports = {name: service["ports"] for name, service in RUNNING.items() if "ports" in service}
    assert set(ports) == set(PUBLISHED)
    for name, published in ports.items():
        [port] = published
        assert re.fullmatch(rf"127\.0\.0\.1:\$\{{{PUBLISHED[name]}:-\d+\}}:\d+", port)


def test_a_profile_publishes_no_port_that_another_service_has() -> None:
    """The replica has its own port; HAProxy has the port of the dashboards, which then have none."""
    ports = {name: service["ports"] for name, service in ADDED.items() if service.get("ports")}
    assert ports == {
        "replica": ["127.0.0.1:${REPLICA_PORT:-5434}:5432"],
        "haproxy": RUNNING["dashboard"]["ports"],
    }
    assert FILES["scale"]["services"]["dashboard"]["ports"] == []


def test_only_programs_that_use_the_servers_share_a_network_with_them() -> None:
    """Prometheus is in another network; the network of the published ports connects no two containers."""
    networks = COMPOSE["networks"]
    assert networks["data"]["internal"] is True
    closed = networks["data_ports"]["driver_opts"]
    assert closed["com.docker.network.bridge.enable_icc"] == "false"
    for name, service in RUNNING.items():
        joined = set(service.get("networks", ()))
        assert joined or service.get("network_mode") == "none", name
        assert name in DATA or "data_ports" not in joined
        assert name == "dashboard" or "outside" not in joined
    assert set(RUNNING["prometheus"]["networks"]) == {"monitoring"}
    for name in ("data_ports", "monitoring"):
        assert networks[name]["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


def test_a_profile_brings_nobody_else_to_the_servers() -> None:
    """HAProxy, which reads what visitors send, is apart, and each network has its members alone."""
    for profile, file in FILES.items():
        networks = file.get("networks") or {}
        for name, network in networks.items():
            assert network["driver_opts"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"
            services = file["services"].items()
            members = {each for each, service in services if name in service.get("networks", ())}
            assert members == ({"dashboard", "haproxy"} if profile == "scale" else {"replica"})
        joined = {name for name in ADDED_SERVICES[profile] if "data" in ADDED[name]["networks"]}
        assert joined == set(ADDED_SERVICES[profile]) - {"haproxy"}
    assert ADDED["haproxy"]["networks"] == ["pages"]


def test_dashboards_refuse_foreign_names_in_every_profile() -> None:
    """With DASHBOARD_BEHIND=proxy they would leave that to HAProxy."""
    for document in (COMPOSE, *FILES.values()):
        environment = document["services"].get("dashboard", {}).get("environment", {})
        assert environment.get("DASHBOARD_BEHIND", "loopback") == "loopback"


def test_every_image_is_named_once() -> None:
    """The name is in compose.yaml, and the Dockerfile has the same default."""
    images = COMPOSE["x-images"]
    used = {service["image"] for service in RUNNING.values()} | {
        RUNNING["secrets"]["build"]["args"]["PYTHON_IMAGE"]
    }
    assert used - {"${COMPOSE_PROJECT_NAME:-echo-markets}-app"} == set(images.values())
    assert all(re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[^}]+\}", image) for image in images.values())
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    default = re.search(r"^ARG PYTHON_IMAGE=(.+)$", dockerfile, re.MULTILINE)
    assert default is not None
    assert images["python"].partition("@")[0].removesuffix("}") == f"${{PYTHON_IMAGE:-{default[1]}"
    assert f"USER {APPLICATION_USER}:{APPLICATION_USER}" in dockerfile


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_every_secret_is_a_file_that_somebody_receives(profile: str | None) -> None:
    """The file contains no password, and each container mounts only its own secrets."""
    added = FILES[profile] if profile else {}
    files = COMPOSE["secrets"] | added.get("secrets", {})
    given = added.get("services", {}).get("secrets", {}).get("secrets", [])
    assert [*COMPOSE["services"]["secrets"]["secrets"], *given] == list(files)
    assert all(secret["file"].startswith(".local/") for secret in files.values())
    assert set(files) <= {name for receiver in RECEIVERS.values() for name in receiver.names}
    for service in (*RUNNING.values(), *added.get("services", {}).values()):
        for mount in list_mounts(service):
            assert mount["read_only"] is True
            receiver = RECEIVERS[mount["volume"]["subpath"]]
            assert service.get("user", f"{APPLICATION_USER}:").startswith(str(receiver.user)) or added
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or value == "" or value.startswith("/run/secrets/")


@pytest.mark.parametrize("name", sorted({*list_secrets(Settings), *list_secrets(StackSettings)}))
def test_secrets_of_the_settings_file_stay_out_of_containers(name: str) -> None:
    """Every program gets `.env`; compose overrides each secret in it, and the path of its file."""
    environment = COMPOSE["x-app"]["environment"]
    given = [environment[each] for each in (name.upper(), f"{name.upper()}_FILE")]
    assert "" in given, "both would be set"


def test_the_profile_tls_leaves_nothing_plain() -> None:
    """Every program that gets the address of a server verifies the server's certificate."""
    services = FILES["tls"]["services"]
    for name, service in RUNNING.items():
        if "environment" in service and name != "postgres":
            told = services[name]["environment"]
            urls = [
                key for key in ("ADMIN_URL", "DATABASE_URL", "DIRECT_URL") if service["environment"].get(key)
            ]
            for key in urls:
                assert told[key] == f"{service['environment'][key]}?{VERIFIED}"
            if "REDIS_URL" in service["environment"]:
                assert told["REDIS_URL"].startswith("rediss://")
    plain, tls = (read(f"exporter/prometheus/{name}.yml") for name in ("prometheus", "prometheus-tls"))
    [scraped] = tls["scrape_configs"]
    assert {**scraped, "scheme": "https"} == scraped
    for key in ("scheme", "tls_config", "basic_auth"):
        del scraped[key]
    assert tls == plain
