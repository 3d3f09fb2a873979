"""What Docker Compose says about its containers, read without an engine."""

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


def test_reads_lines_and_arrays() -> None:
    """Compose before 2.21 prints an array, since then one object a line."""
    items = [
        {"Service": "redis", "State": "running", "Health": "healthy", "ExitCode": 0, "Publishers": None},
        {"Service": "seed", "State": "exited", "Health": "", "ExitCode": 0, "Publishers": []},
    ]
    expected = [Container("redis", "running", True, ""), Container("seed", "done", True, "")]
    assert parse_containers("\n".join(json.dumps(item) for item in items)) == expected
    assert parse_containers(json.dumps(items)) == expected


def test_healthy_and_unhealthy_containers_differ() -> None:
    """A container is healthy when it runs and its check passes, a one-shot when it ended without an error."""
    items = [
        {"Service": "simulator", "State": "running", "Health": "", "ExitCode": 0},
        {"Service": "exporter", "State": "running", "Health": "starting", "ExitCode": 0},
        {"Service": "dashboard", "State": "exited", "Health": "", "ExitCode": 0},
        {"Service": "migrate", "State": "exited", "Health": "", "ExitCode": 1},
    ]
    containers = parse_containers("\n".join(json.dumps(item) for item in items))
    assert [item.is_healthy for item in containers] == [True, False, False, False]


def test_shows_published_ports() -> None:
    """Only ports that this machine can reach are shown, each once."""
    publishers = [{"PublishedPort": 8501}, {"PublishedPort": 8501}, {"PublishedPort": 0}]
    item = {"Service": "dashboard", "State": "running", "ExitCode": 0, "Publishers": publishers}
    assert parse_containers(json.dumps(item))[0].ports == "127.0.0.1:8501"


def test_finds_the_checkout_of_containers() -> None:
    """Two checkouts in folders of the same name would replace each other's containers."""
    labels = "com.docker.compose.project=main,com.docker.compose.project.working_dir=/home/alice/main,a=b"
    assert find_checkouts(json.dumps([{"Labels": labels}, {"Labels": labels}])) == {"/home/alice/main"}


def test_the_pooler_and_the_sentinels_have_passwords_of_their_own(tmp_path: Path) -> None:
    """PgBouncer has the passwords of the programs; with sentinels Redis has one more user."""
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
    # whoever has it can move the cache to another server
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
    """An engine that has been started or stopped since then does not replace the data by an empty game."""
    monkeypatch.setattr(
        "core.stack.commands.find_engine_problem", lambda: None if has_engine else "no engine answers"
    )
    folder = StackFolder(tmp_path)
    folder.create()
    for name in kept:
        (folder.path / name).mkdir()
    assert isinstance(choose_stack(StackSettings(), folder, Console(quiet=True)), expected)


def test_a_stack_that_is_up_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `make up` finds it, also with an engine and containers of an earlier start."""
    monkeypatch.setattr("core.stack.commands.find_engine_problem", lambda: None)
    folder = StackFolder(tmp_path)
    folder.create()
    folder.docker_mark.touch()
    monkeypatch.setattr(StackFolder, "recorded", lambda _: {"MODE": "local"})
    assert isinstance(choose_stack(StackSettings(), folder, Console(quiet=True)), LocalStack)
    with pytest.raises(StackError, match="up in local mode; run `make down` before MODE=docker"):
        choose_stack(StackSettings(mode="docker"), folder, Console(quiet=True))


def test_the_data_of_containers_needs_their_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that another mode is another game."""
    monkeypatch.setattr("core.stack.commands.find_engine_problem", lambda: "no engine answers")
    folder = StackFolder(tmp_path)
    folder.create()
    folder.docker_mark.touch()
    with pytest.raises(StackError, match=r"no engine answers; start an engine .* the data of this one is in"):
        choose_stack(StackSettings(), folder, Console(quiet=True))


def test_a_profile_needs_an_engine(tmp_path: Path) -> None:
    """Only the profile replica also works with embedded servers."""
    folder = StackFolder(tmp_path)
    console = Console(quiet=True)
    assert isinstance(
        choose_stack(StackSettings(mode="local", profile="replica"), folder, console), LocalStack
    )
    with pytest.raises(StackError, match="PROFILE=pooler needs containers"):
        choose_stack(StackSettings(mode="local", profile="replica,pooler"), folder, console)


def test_the_secrets_of_a_sign_in_become_files(tmp_path: Path) -> None:
    """They may be settings or files; without a sign-in the files are empty, because compose needs them."""
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
