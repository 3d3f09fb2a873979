"""The output of Docker Compose, the choice between containers and embedded servers, and their secrets."""

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from core.errors import StackError
from core.settings.role_names import APP, MONITOR
from core.stack.commands import choose_stack
from core.stack.compose import ComposeStack, Container, find_checkouts, parse_containers
from core.stack.folder import StackFolder
from core.stack.local import LocalStack
from core.stack.secret_distribution import RECEIVERS
from core.stack.secret_generation import make_secrets, name_copies
from core.stack.settings import StackSettings


def test_compose_output_is_read_as_lines_and_as_array() -> None:
    """Both outputs of Compose are read: a JSON array (before 2.21), and one JSON object a line."""
    items = [
        {"Service": "redis", "State": "running", "Health": "healthy", "ExitCode": 0, "Publishers": None},
        {"Service": "seed", "State": "exited", "Health": "", "ExitCode": 0, "Publishers": []},
    ]
    expected = [Container("redis", "running", True, ""), Container("seed", "done", True, "")]
    assert parse_containers("\n".join(json.dumps(item) for item in items)) == expected
    assert parse_containers(json.dumps(items)) == expected


def test_healthy_and_unhealthy_containers_differ() -> None:
    """A container is healthy if it runs and its health check, if it has one, has passed."""
    items = [
        {"Service": "simulator", "State": "running", "Health": "", "ExitCode": 0},
        {"Service": "exporter", "State": "running", "Health": "starting", "ExitCode": 0},
        {"Service": "dashboard", "State": "exited", "Health": "", "ExitCode": 0},
        {"Service": "migrate", "State": "exited", "Health": "", "ExitCode": 1},
    ]
    containers = parse_containers("\n".join(json.dumps(item) for item in items))
    assert [item.is_healthy for item in containers] == [True, False, False, False]


def test_published_ports_are_shown() -> None:
    """Each published port is shown once, and port 0 is not shown."""
    publishers = [{"PublishedPort": 8501}, {"PublishedPort": 8501}, {"PublishedPort": 0}]
    item = {"Service": "dashboard", "State": "running", "ExitCode": 0, "Publishers": publishers}
    assert parse_containers(json.dumps(item))[0].ports == "127.0.0.1:8501"


def test_the_folder_of_containers_is_found() -> None:
    """`find_checkouts` returns the folders from the labels of running containers."""
    labels = "com.docker.compose.project=main,com.docker.compose.project.working_dir=/home/alice/main,a=b"
    assert find_checkouts(json.dumps([{"Labels": labels}, {"Labels": labels}])) == {"/home/alice/main"}


def test_pooler_and_sentinels_get_their_passwords(tmp_path: Path) -> None:
    """The user file of PgBouncer has the roles' passwords; with sentinels Redis has a user `sentinel`."""
    folder = StackFolder(tmp_path)
    folder.create()
    secrets = make_secrets(folder, StackSettings(profile="pooler"))
    users = (folder.secrets / "pooler.users").read_text(encoding="utf-8").split()
    monitor = (folder.secrets / "monitor.password").read_text(encoding="utf-8")
    names = [f'"{text}"' for text in (APP, secrets.app_password, MONITOR, monitor)]
    assert users == names
    acl = folder.secrets / "redis.acl"
    assert "user sentinel" not in acl.read_text(encoding="utf-8")
    make_secrets(folder, StackSettings(profile="sentinel"))
    password = (folder.secrets / "sentinel.password").read_text(encoding="utf-8")
    assert f"user sentinel reset on #{hashlib.sha256(password.encode()).hexdigest()} " in acl.read_text(
        encoding="utf-8"
    )
    assert f"sentinel sentinel-pass {password}\n" in (folder.secrets / "sentinel.conf").read_text("utf-8")
    # sentinel.conf is for the sentinels only; no container needs the file sentinel.password itself
    holders = {name for name, receiver in RECEIVERS.items() if "sentinel.conf" in receiver.names}
    assert holders == {"sentinel"}
    assert not any("sentinel.password" in receiver.names for receiver in RECEIVERS.values())


@pytest.mark.parametrize(
    ("kept", "has_engine", "expected"),
    [
        ((), True, ComposeStack),
        ((), False, LocalStack),
        (("servers/postgres",), True, LocalStack),
        (("docker",), True, ComposeStack),
        (("servers/postgres", "docker"), True, ComposeStack),
        (("servers/postgres", "docker"), False, LocalStack),
    ],
)
def test_a_stack_with_data_keeps_its_mode(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: tuple[str, ...],
    has_engine: bool,  # noqa: FBT001  # a parameter
    expected: type[object],
) -> None:
    """A stack with data keeps its mode, whether a Docker engine is available or not."""
    monkeypatch.setattr(
        "core.stack.commands.find_engine_problem", lambda: None if has_engine else "no engine answers"
    )
    folder = StackFolder(tmp_path)
    folder.create()
    for name in kept:
        (folder.path / name).mkdir()
    assert isinstance(choose_stack(StackSettings(), folder, Console(quiet=True)), expected)


def test_a_running_stack_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `make up` keeps the local mode of a running stack, although an engine is available."""
    monkeypatch.setattr("core.stack.commands.find_engine_problem", lambda: None)
    folder = StackFolder(tmp_path)
    folder.create()
    folder.docker_mark.touch()
    monkeypatch.setattr(StackFolder, "recorded", lambda _: {"MODE": "local"})
    assert isinstance(choose_stack(StackSettings(), folder, Console(quiet=True)), LocalStack)
    with pytest.raises(StackError, match="up in local mode; run `make down` before MODE=docker"):
        choose_stack(StackSettings(mode="docker"), folder, Console(quiet=True))


def test_the_data_of_containers_needs_their_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the data is in containers and no engine answers, the error says where the data is."""
    monkeypatch.setattr("core.stack.commands.find_engine_problem", lambda: "no engine answers")
    folder = StackFolder(tmp_path)
    folder.create()
    folder.docker_mark.touch()
    with pytest.raises(StackError, match=r"no engine answers; start an engine .* the data of this one is in"):
        choose_stack(StackSettings(), folder, Console(quiet=True))


def test_a_profile_needs_an_engine(tmp_path: Path) -> None:
    """In local mode PROFILE=replica is accepted, and PROFILE=pooler raises an error."""
    folder = StackFolder(tmp_path)
    console = Console(quiet=True)
    assert isinstance(
        choose_stack(StackSettings(mode="local", profile="replica"), folder, console), LocalStack
    )
    with pytest.raises(StackError, match="PROFILE=pooler needs containers"):
        choose_stack(StackSettings(mode="local", profile="replica,pooler"), folder, console)


def test_the_secrets_of_the_sign_in_are_written_to_files(tmp_path: Path) -> None:
    """The secrets of the sign-in are written to files, which are empty without a sign-in."""
    folder = StackFolder(tmp_path)
    folder.create()
    signed = StackSettings(oidc_client_secret=SecretStr("s3cr3t"), oidc_cookie_secret=SecretStr("c" * 32))
    for settings, expected in ((signed, ["s3cr3t", "c" * 32]), (StackSettings(), ["", ""])):
        make_secrets(folder, settings)
        files = [folder.secrets / name for name in ("oidc.client", "oidc.cookie")]
        assert [path.read_text(encoding="utf-8") for path in files] == expected
        paths = [
            f"/run/secrets/{path.name}" if value else "" for path, value in zip(files, expected, strict=True)
        ]
        assert list(name_copies(settings).values()) == paths
