"""The installed wheel and sdist have every file that they read, and work outside the checkout."""

import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from core.installation import MIGRATIONS
from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from core.stack.processes import wait_until
from core.testing import PostgresServer, ValkeyServer, clear_cache
from tests.conftest import created_database
from tests.end_to_end.checkout import copy_checkout
from tests.end_to_end.installation import (
    Installation,
    build_sdist,
    build_wheel,
    clean_environment,
    unpack,
)

pytestmark = pytest.mark.slow

START_SECONDS = 60
# Of `import core` and the command line, with everything that these packages need themselves.
MOST_BASE_PACKAGES = 30
# Folders of the checkout that a wheel keeps inside of `core`.
MOVED = {"migrations": "core/migrations", "data": "core/data", "docs": "core/docs"}
ENTRY = "core/entry/"
SHIPPED_DOCUMENT = "docs/troubleshooting.md"


class Built(NamedTuple):
    """A copy of the checkout and what was built from it."""

    source: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist of a copy of the checkout, and the wheel that is built from the sdist alone."""
    root = tmp_path_factory.mktemp("built")
    source = copy_checkout(root / "checkout").root
    sdist = build_sdist(source, root / "sdist")
    return Built(source, sdist, build_wheel(unpack(sdist, root / "unpacked"), root / "wheel"))


@pytest.fixture(scope="module")
def installation(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in an environment of its own."""
    return Installation(tmp_path_factory.mktemp("installation"), built.wheel)


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of this module, without any table at first."""
    with created_database(postgres_server) as url:
        yield url


@pytest.fixture
def settings_of_servers(database_url: str, valkey_server: ValkeyServer) -> dict[str, str]:
    """The environment variables that name the servers, and a port where no exporter listens."""
    # a test before this one may have used the keys for the database of another server
    clear_cache(valkey_server)
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey_server.url,
        "REDIS_PASSWORD": valkey_server.password,
        "EXPORTER_PORT": str(find_free_port()),
    }


def list_files(wheel: Path) -> set[str]:
    """Return the names of a wheel's files, without its metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def list_source(source: Path) -> set[str]:
    """Return the files of a copy of the checkout; builds leave files of their own."""
    built = {"build", "echo_markets.egg-info", "__pycache__"}
    paths = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not built.intersection(path.parts)}


def place_in_wheel(name: str) -> str | None:
    """Return where a wheel has a file of the checkout; None for one that is not installed."""
    top, _, rest = name.partition("/")
    if name.startswith(ENTRY):
        return f"echo_markets/{name.removeprefix(ENTRY)}"
    if top in {"core", "dashboard", "exporter"}:
        return name
    if top in {"migrations", "data"} or name == SHIPPED_DOCUMENT:
        return f"{MOVED[top]}/{rest}"
    return None


def test_wheel_has_every_file_of_the_packages(built: Built) -> None:
    """Every module, asset and rule of a package is installed, and nothing beside the packages."""
    assert list_files(built.wheel) == set(filter(None, map(place_in_wheel, list_source(built.source))))


def test_wheel_of_the_checkout_is_that_of_the_sdist(built: Built, tmp_path: Path) -> None:
    """A build from the repository has the same files as a build from the sdist."""
    assert list_files(build_wheel(built.source, tmp_path)) == list_files(built.wheel)


def test_sdist_is_the_checkout(built: Built) -> None:
    """An unpacked sdist can start the stack and run the tests."""
    with tarfile.open(built.sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    tooling = {".dockerignore", ".gitignore", ".pre-commit-config.yaml"}
    missing = list_source(built.source) - found
    assert {name for name in missing if not name.startswith((".ci/", ".github/"))} == tooling


def test_image_is_built_from_what_its_context_has(built: Built, tmp_path: Path) -> None:
    """`.dockerignore` excludes no file that the wheel needs."""
    lines = (built.source / ".dockerignore").read_text("utf-8").splitlines()
    allowed = tuple(line.removeprefix("!") for line in lines if line.startswith("!"))
    context = tmp_path / "context"
    for name in list_source(built.source):
        if name.startswith(allowed):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_bytes((built.source / name).read_bytes())
    assert list_files(build_wheel(context, tmp_path / "wheel")) == list_files(built.wheel)


def test_installed_stack_serves_an_empty_database(
    installation: Installation, settings_of_servers: dict[str, str]
) -> None:
    """The wheel alone migrates, imports, seeds and serves a healthy exporter."""

    def echo_markets(*arguments: str) -> tuple[int, str]:
        ended = installation.run("echo-markets", *arguments, **settings_of_servers)
        return ended.returncode, ended.stdout

    names = sorted(path.stem for path in MIGRATIONS.glob("0*.py"))
    status, shown = echo_markets("health")
    assert (status, f"{len(names)} pending" in shown) == (3, True), shown
    status, shown = echo_markets("migrate")
    note, *applied = shown.splitlines()
    assert (status, applied) == (0, [f"applied {name}" for name in names]), shown
    assert note.endswith("privileges are left as they are"), "one role owns all"
    assert echo_markets("migrate", "status")[0] == 0
    status, shown = echo_markets("health")
    assert status == 0, shown
    status, shown = echo_markets("self-test")
    assert status == 0, shown
    status, shown = echo_markets("import-prices", "--demo")
    assert (status, "12154 days of 5 symbols read" in shown) == (0, True), shown
    status, shown = echo_markets("seed", "--players", "5", "--sessions", "2")
    assert (status, "2 sessions" in shown) == (0, True), shown
    exporter_url = f"http://{LOOPBACK}:{settings_of_servers['EXPORTER_PORT']}"
    with installation.running("exporter", **settings_of_servers):
        assert wait_until(lambda: answers(f"{exporter_url}/readyz"), seconds=START_SECONDS)
        status, shown = echo_markets("stats")
        assert (status, "from the exporter" in shown) == (0, True), shown


def test_installed_dashboard_has_its_assets(
    installation: Installation, settings_of_servers: dict[str, str]
) -> None:
    """Fonts and theme are served, and the troubleshooting page has its text."""
    port = find_free_port()
    url = f"http://{LOOPBACK}:{port}"
    with installation.running("dashboard", DASHBOARD_PORT=str(port), **settings_of_servers):
        assert wait_until(lambda: answers(f"{url}/livez"), seconds=START_SECONDS)
        for name in ("inter-latin-wght-normal.woff2", "inter-latin-ext-wght-normal.woff2"):
            assert answers(f"{url}/app/static/{name}")
    program = "from dashboard.pages.operations.advice import read_sections; print(len(read_sections()))"
    assert int(installation.run("python", "-c", program).stdout) > 10


@pytest.fixture(scope="module")
def base_installation(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The sdist in an environment of its own, without any extra."""
    root = tmp_path_factory.mktemp("base_installation")
    return Installation(root, built.sdist, extras=(), tools=("setuptools",))


@pytest.fixture
def own_settings(
    settings_of_servers: dict[str, str], postgres_server: PostgresServer
) -> Iterator[dict[str, str]]:
    """The settings with a database and a part of the cache that no other test uses."""
    with created_database(postgres_server) as url:
        yield {**settings_of_servers, "DATABASE_URL": url, "REDIS_KEY_PREFIX": "own:"}


def test_a_library_user_installs_little(
    base_installation: Installation, own_settings: dict[str, str]
) -> None:
    """Without extras there are few packages, and the service and its commands work with them."""
    assert len(base_installation.required) <= MOST_BASE_PACKAGES, sorted(base_installation.required)
    assert not base_installation.required & {"numpy", "pandas", "pyarrow", "streamlit", "uvicorn"}
    for command in ("migrate", "self-test"):
        ended = base_installation.run("echo-markets", command, **own_settings)
        assert ended.returncode == 0, ended.stdout
    program = (
        "from core import open_service\nwith open_service() as service: print(service.list_users(limit=5))"
    )
    ended = base_installation.run("python", "-c", program, **own_settings)
    assert (ended.returncode, ended.stdout) == (0, "()\n")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("echo-markets", "import-prices", "--demo"), "simulation"),
        (("echo-markets", "simulate"), "simulation"),
        (("python", "-m", "exporter"), "exporter"),
        (("python", "-m", "dashboard"), "dashboard"),
        (("python", "-c", "from core.service import EnhancedDatabaseService as s; s.to_frame([])"), "frames"),
        (
            ("python", "-c", "from core.testing import serve_valkey\nwith serve_valkey(): pass"),
            "local",
        ),
    ],
)
def test_a_missing_extra_is_named(
    base_installation: Installation,
    settings_of_servers: dict[str, str],
    command: tuple[str, ...],
    extra: str,
) -> None:
    """The last line names the missing extra; programs of the stack print only that line."""
    ended = base_installation.run(*command, **settings_of_servers)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1, ended.stdout
    assert f"echo-markets[{extra}]" in lines[-1], ended.stdout
    assert "-c" in command or len(lines) == 1, ended.stdout


def test_exporter_runs_with_its_extra_alone(
    built: Built, tmp_path: Path, own_settings: dict[str, str]
) -> None:
    """A host that only serves metrics installs neither pandas nor Streamlit."""
    installation = Installation(tmp_path, built.wheel, extras=("exporter",))
    assert not installation.required & {"numpy", "pandas", "pyarrow", "streamlit"}
    assert installation.run("echo-markets", "migrate", **own_settings).returncode == 0
    url = f"http://{LOOPBACK}:{own_settings['EXPORTER_PORT']}"
    with installation.running("exporter", **own_settings):
        assert wait_until(lambda: answers(f"{url}/readyz"), seconds=START_SECONDS)
        assert answers(f"{url}/metrics")


def test_installation_without_migrations_says_so(
    installation: Installation, settings_of_servers: dict[str, str]
) -> None:
    """An incomplete installation is not reported as an up-to-date schema."""
    folder = installation.site_packages / "core" / "migrations"
    aside = folder.rename(folder.with_name("aside"))
    # another project's folder of that name is not taken for ours
    stranger = installation.site_packages / "migrations"
    stranger.mkdir()
    (stranger / "0001_strangers.py").write_text("def up(migrator, db): raise SystemExit\n", "utf-8")
    try:
        for direction in ("up", "status", "down"):
            ended = installation.run("echo-markets", "migrate", direction, **settings_of_servers)
            assert ended.returncode == 1
            assert ended.stdout == (
                f"error: no migrations found in {folder}; the installation is incomplete,"
                " reinstall echo-markets\n"
            )
        health = installation.run("echo-markets", "health", **settings_of_servers)
        assert (health.returncode, "no migrations found" in " ".join(health.stdout.split())) == (1, True)
    finally:
        aside.rename(folder)
        (stranger / "0001_strangers.py").unlink()
        stranger.rmdir()


@pytest.mark.parametrize("file", ["core/__init__.py", "core.py"])
@pytest.mark.parametrize(
    "command",
    [
        ("echo-markets", "health"),
        ("python", "-m", "exporter"),
        ("python", "-m", "dashboard"),
        ("python", "-c", "import exporter.server"),
        ("python", "-c", "from dashboard import access"),
    ],
    ids=" ".join,
)
def test_another_package_called_core_is_named(
    installation: Installation, tmp_path: Path, command: tuple[str, ...], file: str
) -> None:
    """One line says which `core` was found, where ours is, and the remedy."""
    other = tmp_path / file
    other.parent.mkdir(exist_ok=True)
    other.write_text("raise SystemExit('the other package was run')\n", "utf-8")
    ended = installation.run(*command, PYTHONPATH=str(tmp_path), DATABASE_URL="postgresql://db.example/echo")
    [line] = [line for line in ended.stdout.splitlines() if "`core` is" in line]
    assert f"`core` is {other}, not the package of Echo Markets" in line
    assert f"in {installation.site_packages / 'core'}" in line
    assert "PYTHONPATH" in line
    if "-c" in command:
        assert line.startswith("ImportError: ")
    else:
        assert (ended.returncode, ended.stdout) == (2, f"{line}\n")


def test_a_folder_called_core_is_no_package(installation: Installation, tmp_path: Path) -> None:
    """A folder `core` without code, which many projects have, does not hide the package."""
    (tmp_path / "core").mkdir()
    ended = installation.run("echo-markets", "--version", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 0, ended.stdout
    program = "from core import open_service; import exporter.server; print(open_service.__module__)"
    assert installation.run("python", "-c", program, PYTHONPATH=str(tmp_path)).stdout == "core.app\n"


def test_image_knows_its_revision(built: Built, installation: Installation) -> None:
    """The Dockerfile writes the revision to the file that the installed package reads."""
    [line] = re.findall(
        r"&& cd \S+/site-packages && (echo .*REVISION.*)$",
        (built.source / "Dockerfile").read_text("utf-8"),
        re.MULTILINE,
    )
    subprocess.run(
        ["sh", "-c", line],
        cwd=installation.site_packages,
        env=clean_environment({"PATH": os.environ["PATH"], "REVISION": "0123456789abcdef"}),
        check=True,
    )
    try:
        program = "from core.installation import find_release; print(*find_release())"
        assert installation.run("python", "-c", program).stdout == f"{version('echo-markets')} 0123456789ab\n"
    finally:
        (installation.site_packages / "REVISION").unlink()


def test_servers_refuse_arguments(installation: Installation) -> None:
    """An argument that no program reads is refused, so nobody takes it for a setting."""
    for program in ("exporter", "dashboard"):
        ended = installation.run("python", "-m", program, "--port", "9200")
        assert ended.returncode == 2
        assert ended.stdout == (
            f"`python -m {program}` takes no arguments, '--port' included; set variables of the"
            " environment, which docs/settings.md and .env.example list\n"
        )


def test_installed_stack_commands_name_the_checkout(installation: Installation) -> None:
    """Commands of the whole stack say in one line that they need the repository."""
    for command in ("up", "down", "status", "clean", "logs"):
        ended = installation.run("echo-markets", "stack", command)
        assert ended.returncode == 1
        assert ended.stdout == (
            "error: the stack runs from a checkout of the repository; this is an installed package\n"
        )


def answers(url: str) -> bool:
    """Say whether a GET is answered with 200."""
    try:
        with urlopen(url, timeout=5) as answer:  # loopback only
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
