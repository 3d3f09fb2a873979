"""The wheel and the sdist contain every file that they read, and work outside the checkout."""

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
from core.testing import ENCRYPTION_KEYS, PostgresServer, ValkeyServer, clear_cache
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
# Largest number of packages, dependencies of dependencies included, for an installation without extras.
MAX_BASE_PACKAGES = 30
# Folders of the checkout and their places in the wheel.
MOVED = {"migrations": "core/migrations", "data": "core/data", "docs": "core/docs"}
ENTRY = "core/entry/"
SHIPPED_DOCUMENT = "docs/troubleshooting.md"


class Built(NamedTuple):
    """A copy of the checkout, the sdist built from it, and the wheel built from the sdist."""

    source: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return the sdist of a copy of the checkout, and the wheel that is built from this sdist alone."""
    root = tmp_path_factory.mktemp("built")
    source = copy_checkout(root / "checkout").root
    sdist = build_sdist(source, root / "sdist")
    return Built(source, sdist, build_wheel(unpack(sdist, root / "unpacked"), root / "wheel"))


@pytest.fixture(scope="module")
def installation(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return a virtual environment with the wheel and all extras."""
    return Installation(tmp_path_factory.mktemp("installation"), built.wheel)


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Yield the URL of a database that the tests of this module share; at first it has no table."""
    with created_database(postgres_server) as url:
        yield url


@pytest.fixture
def settings_of_servers(database_url: str, valkey_server: ValkeyServer) -> dict[str, str]:
    """Return environment variables that name the servers, and a free port for the exporter."""
    # an earlier test may have left cached values of another database
    clear_cache(valkey_server)
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey_server.url,
        "REDIS_PASSWORD": valkey_server.password,
        "EXPORTER_PORT": str(find_free_port()),
    }


def list_files(wheel: Path) -> set[str]:
    """Return the names of a wheel's files except its metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def list_source(source: Path) -> set[str]:
    """Return the files of a copy of the checkout, without the files that builds have created."""
    built = {"build", "echo_markets.egg-info", "__pycache__"}
    paths = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not built.intersection(path.parts)}


def find_path_in_wheel(name: str) -> str | None:
    """Return a file's path in the wheel, or None if the wheel does not contain the file."""
    top, _, rest = name.partition("/")
    if name.startswith(ENTRY):
        return f"echo_markets/{name.removeprefix(ENTRY)}"
    if top in {"core", "dashboard", "exporter"}:
        return name
    if top in {"migrations", "data"} or name == SHIPPED_DOCUMENT:
        return f"{MOVED[top]}/{rest}"
    return None


def test_wheel_has_every_file_of_the_packages(built: Built) -> None:
    """The wheel contains every file of the packages and no other file."""
    assert list_files(built.wheel) == set(filter(None, map(find_path_in_wheel, list_source(built.source))))


def test_wheels_of_checkout_and_sdist_are_the_same(built: Built, tmp_path: Path) -> None:
    """A wheel built from the checkout has the same files as a wheel built from the sdist."""
    assert list_files(build_wheel(built.source, tmp_path)) == list_files(built.wheel)


def test_sdist_has_every_file_of_the_checkout(built: Built) -> None:
    """The sdist contains every file of the checkout, except CI configuration and three tool files."""
    with tarfile.open(built.sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    tooling = {".dockerignore", ".gitignore", ".pre-commit-config.yaml"}
    missing = list_source(built.source) - found
    assert {name for name in missing if not name.startswith((".ci/", ".github/"))} == tooling


def test_dockerignore_excludes_no_needed_file(built: Built, tmp_path: Path) -> None:
    """A wheel built from the files that `.dockerignore` allows is complete."""
    lines = (built.source / ".dockerignore").read_text("utf-8").splitlines()
    allowed = tuple(line.removeprefix("!") for line in lines if line.startswith("!"))
    context = tmp_path / "context"
    for name in list_source(built.source):
        if name.startswith(allowed):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_bytes((built.source / name).read_bytes())
    assert list_files(build_wheel(context, tmp_path / "wheel")) == list_files(built.wheel)


def test_installed_commands_work_on_an_empty_database(
    installation: Installation, settings_of_servers: dict[str, str]
) -> None:
    """On an empty database, the installed commands migrate, import prices, seed and serve the exporter."""

    def echo_markets(*arguments: str) -> tuple[int, str]:
        ended = installation.run("echo-markets", *arguments, **settings_of_servers)
        return ended.returncode, ended.stdout

    names = sorted(path.stem for path in MIGRATIONS.glob("0*.py"))
    status, shown = echo_markets("health")
    assert (status, f"{len(names)} pending" in shown) == (3, True), shown
    status, shown = echo_markets("migrate")
    note, *applied = shown.splitlines()
    assert (status, applied) == (0, [f"applied {name}" for name in names]), shown
    assert note.endswith("privileges are left as they are"), "one role owns everything"
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
        assert wait_until(lambda: is_served(f"{exporter_url}/readyz"), seconds=START_SECONDS)
        status, shown = echo_markets("stats")
        assert (status, "from the exporter" in shown) == (0, True), shown


def test_installed_dashboard_has_its_assets(
    installation: Installation, settings_of_servers: dict[str, str]
) -> None:
    """The installed dashboard serves its fonts and has the text of the troubleshooting page."""
    port = find_free_port()
    url = f"http://{LOOPBACK}:{port}"
    with installation.running("dashboard", DASHBOARD_PORT=str(port), **settings_of_servers):
        assert wait_until(lambda: is_served(f"{url}/livez"), seconds=START_SECONDS)
        for name in ("inter-latin-wght-normal.woff2", "inter-latin-ext-wght-normal.woff2"):
            assert is_served(f"{url}/app/static/{name}")
    program = "from dashboard.pages.operations.advice import read_sections; print(len(read_sections()))"
    assert int(installation.run("python", "-c", program).stdout) > 10


@pytest.fixture(scope="module")
def base_installation(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return a virtual environment with the sdist and no extras."""
    root = tmp_path_factory.mktemp("base_installation")
    return Installation(root, built.sdist, extras=(), tools=("setuptools",))


@pytest.fixture
def own_settings(
    settings_of_servers: dict[str, str], postgres_server: PostgresServer
) -> Iterator[dict[str, str]]:
    """Yield settings with a database and a Redis key prefix for one test."""
    with created_database(postgres_server) as url:
        yield {
            **settings_of_servers,
            "DATABASE_URL": url,
            "REDIS_KEY_PREFIX": "own:",
            "ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        }


def test_an_installation_without_extras_is_small(
    base_installation: Installation, own_settings: dict[str, str]
) -> None:
    """An installation without extras has at most 30 packages; its service and commands work."""
    assert len(base_installation.required) <= MAX_BASE_PACKAGES, sorted(base_installation.required)
    assert not base_installation.required & {"numpy", "pandas", "pyarrow", "streamlit", "uvicorn"}
    for command in ("migrate", "self-test", "rotate-keys"):
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
    """Without the needed extra, the last line of the output names it; only `python -c` prints more lines."""
    ended = base_installation.run(*command, **settings_of_servers)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1, ended.stdout
    assert f"echo-markets[{extra}]" in lines[-1], ended.stdout
    assert "-c" in command or len(lines) == 1, ended.stdout


def test_exporter_runs_with_its_extra_alone(
    built: Built, tmp_path: Path, own_settings: dict[str, str]
) -> None:
    """The exporter runs with the extra `exporter` alone, without pandas and Streamlit."""
    installation = Installation(tmp_path, built.wheel, extras=("exporter",))
    assert not installation.required & {"numpy", "pandas", "pyarrow", "streamlit"}
    assert installation.run("echo-markets", "migrate", **own_settings).returncode == 0
    url = f"http://{LOOPBACK}:{own_settings['EXPORTER_PORT']}"
    with installation.running("exporter", **own_settings):
        assert wait_until(lambda: is_served(f"{url}/readyz"), seconds=START_SECONDS)
        assert is_served(f"{url}/metrics")


def test_missing_migrations_are_an_error(
    installation: Installation, settings_of_servers: dict[str, str]
) -> None:
    """If the installed package has no migrations, `migrate` and `health` fail with a message."""
    folder = installation.site_packages / "core" / "migrations"
    aside = folder.rename(folder.with_name("aside"))
    # a folder `migrations` of another project must not be used
    foreign = installation.site_packages / "migrations"
    foreign.mkdir()
    (foreign / "0001_foreign.py").write_text("def up(migrator, db): raise SystemExit\n", "utf-8")
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
        (foreign / "0001_foreign.py").unlink()
        foreign.rmdir()


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
    """If another package `core` is found first, one line names its path, the right path and the remedy."""
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


def test_a_folder_called_core_does_not_hide_the_package(installation: Installation, tmp_path: Path) -> None:
    """A folder `core` without Python files on the path does not hide the package `core`."""
    (tmp_path / "core").mkdir()
    ended = installation.run("echo-markets", "--version", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 0, ended.stdout
    program = "from core import open_service; import exporter.server; print(open_service.__module__)"
    assert installation.run("python", "-c", program, PYTHONPATH=str(tmp_path)).stdout == "core.app\n"


def test_image_knows_its_revision(built: Built, installation: Installation) -> None:
    """The installed package reads the revision that the command in the Dockerfile writes."""
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


def test_exporter_and_dashboard_refuse_arguments(installation: Installation) -> None:
    """Exporter and dashboard take no arguments: they exit with 2 and name the documents of the settings."""
    for program in ("exporter", "dashboard"):
        ended = installation.run("python", "-m", program, "--port", "9200")
        assert ended.returncode == 2
        assert ended.stdout == (
            f"`python -m {program}` takes no arguments, '--port' included; set variables of the"
            " environment, which docs/settings.md and .env.example list\n"
        )


def test_stack_commands_need_a_checkout(installation: Installation) -> None:
    """`echo-markets stack` commands of an installed package fail with one line: they need a checkout."""
    for command in ("up", "down", "status", "clean", "logs"):
        ended = installation.run("echo-markets", "stack", command)
        assert ended.returncode == 1
        assert ended.stdout == (
            "error: the stack runs from a checkout of the repository; this is an installed package\n"
        )


def is_served(url: str) -> bool:
    """Return whether a GET request returns status 200."""
    try:
        with urlopen(url, timeout=5) as response:  # loopback only
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
