"""compose.yaml and the files of the profiles: the tests parse the YAML and need no container engine."""

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
    """A value tagged `!override`, which Compose does not merge with the extended service's value."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that knows the tag `!override` of Compose."""


def _construct_replaced(loader: _Loader, node: yaml.Node) -> _Replaced:
    if isinstance(node, yaml.MappingNode):
        return _Replaced(loader.construct_mapping(node, deep=True))
    assert isinstance(node, yaml.SequenceNode)
    return _Replaced(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("!override", _construct_replaced)


def read(name: str) -> Any:
    """Return a parsed compose file in which `extends` is resolved."""
    # safe: _Loader is a SafeLoader with one more tag
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
    """Merge two mappings as Compose merges an extended service; any other value replaces `base`."""
    return {**base, **given} if isinstance(base, dict) and isinstance(given, dict) else given


COMPOSE = read("compose.yaml")
RUNNING = COMPOSE["services"]
FILES = {profile: read(f"compose.{profile}.yaml") for profile in PROFILES}
# the services that only profiles start
ADDED = {
    name: FILES[profile]["services"][name] for profile, names in ADDED_SERVICES.items() for name in names
}
EVERY = RUNNING | ADDED


def list_mounts(service: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the volume mounts of a service that are written in the long form."""
    return [mount for mount in service.get("volumes", ()) if isinstance(mount, dict)]


def test_the_stack_knows_every_service() -> None:
    """`core.stack` lists every service of the compose files, so `make up` and `make status` wait for it."""
    assert set(RUNNING) == SERVICES
    for profile, names in ADDED_SERVICES.items():
        assert set(FILES[profile]["services"]) - SERVICES == set(names), profile


def test_every_profile_has_its_compose_file() -> None:
    """Each profile has a file compose.PROFILE.yaml, and REPLICAS=1 selects the profile `replica`."""
    files = {path.name.split(".")[1] for path in ROOT.glob("compose.*.yaml")}
    assert files == set(PROFILES)
    assert list_profiles({"PROFILE": ",".join(PROFILES[1:]), "REPLICAS": "1"}) == PROFILES


@pytest.mark.parametrize("name", EVERY)
def test_every_service_is_hardened(name: str) -> None:
    """A service runs read-only, without capabilities or root, with limits of memory, processes and logs."""
    service = EVERY[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    if name == "secrets":
        # the only service that runs as root: it copies the secrets to their owners, and has no network
        assert service["cap_add"] == ["CHOWN", "DAC_OVERRIDE"]
        assert service["network_mode"] == "none"
    else:
        assert "cap_add" not in service
        assert not str(service.get("user", APPLICATION_USER)).startswith("0")


@pytest.mark.parametrize("name", sorted({*SERVICES - ONE_SHOT, *ADDED}))
def test_every_long_running_service_has_a_health_check(name: str) -> None:
    """Every service except the one-shot services has a health check command."""
    assert EVERY[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


def test_ports_are_published_on_the_loopback_interface_only() -> None:
    """Each port is published on 127.0.0.1, by one service, with the port number from a setting."""
    ports = {name: service["ports"] for name, service in RUNNING.items() if "ports" in service}
    assert set(ports) == set(PUBLISHED)
    for name, published in ports.items():
        [port] = published
        assert re.fullmatch(rf"127\.0\.0\.1:\$\{{{PUBLISHED[name]}:-\d+\}}:\d+", port)


def test_a_profile_publishes_no_port_twice() -> None:
    """The replica has a port of its own; HAProxy has the dashboard's port, so the dashboards publish none."""
    ports = {name: service["ports"] for name, service in ADDED.items() if service.get("ports")}
    assert ports == {
        "replica": ["127.0.0.1:${REPLICA_PORT:-5434}:5432"],
        "haproxy": RUNNING["dashboard"]["ports"],
    }
    assert FILES["scale"]["services"]["dashboard"]["ports"] == []


def test_each_network_has_only_the_services_that_need_it() -> None:
    """Only servers join `data_ports`, only the dashboard joins `outside`, Prometheus is in `monitoring`."""
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


def test_haproxy_shares_no_network_with_the_servers() -> None:
    """HAProxy parses visitors' requests, so it joins only `pages`; other added services join `data`."""
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


def test_dashboards_check_the_host_header_in_every_profile() -> None:
    """No file sets DASHBOARD_BEHIND=proxy, with which a dashboard accepts every Host header."""
    for document in (COMPOSE, *FILES.values()):
        environment = document["services"].get("dashboard", {}).get("environment", {})
        assert environment.get("DASHBOARD_BEHIND", "loopback") == "loopback"


def test_every_image_is_named_once() -> None:
    """Every image is named in `x-images`; the Dockerfile has the same default for the Python image."""
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
def test_every_secret_is_mounted_for_its_receiver(profile: str | None) -> None:
    """Every secret is a file with a receiver, mounted read-only, and no environment value has a password."""
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
    """compose.yaml sets NAME and NAME_FILE of each secret, so `.env` has no effect; at least one is empty."""
    environment = COMPOSE["x-app"]["environment"]
    given = [environment[each] for each in (name.upper(), f"{name.upper()}_FILE")]
    assert "" in given, "both would be set"


def test_profile_tls_encrypts_every_connection() -> None:
    """PostgreSQL URLs verify the server's certificate, Redis URLs are rediss://, and scrapes use HTTPS."""
    services = FILES["tls"]["services"]
    for name, service in RUNNING.items():
        if "environment" in service and name != "postgres":
            environment = services[name]["environment"]
            urls = [
                key for key in ("ADMIN_URL", "DATABASE_URL", "DIRECT_URL") if service["environment"].get(key)
            ]
            for key in urls:
                assert environment[key] == f"{service['environment'][key]}?{VERIFIED}"
            if "REDIS_URL" in service["environment"]:
                assert environment["REDIS_URL"].startswith("rediss://")
    plain, tls = (read(f"exporter/prometheus/{name}.yml") for name in ("prometheus", "prometheus-tls"))
    [scraped] = tls["scrape_configs"]
    assert {**scraped, "scheme": "https"} == scraped
    for key in ("scheme", "tls_config", "basic_auth"):
        del scraped[key]
    assert tls == plain
