"""Builds the wheel and the sdist, installs them in virtual environments, and runs them outside the checkout.

Installs without a package index: the required third-party packages, and no others, are linked from the
environment that runs the tests.
"""

import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from core import Settings
from core.stack.settings import StackSettings

COMMAND_SECONDS = 120
STOP_SECONDS = 10


def build_wheel(source: Path, target: Path) -> Path:
    """Build a wheel from `source` alone, with the PEP 517 hook; return its path."""
    return _build("build_wheel", source, target)


def build_sdist(source: Path, target: Path) -> Path:
    """Build a source distribution (sdist) and return its path."""
    return _build("build_sdist", source, target)


def _build(hook: str, source: Path, target: Path) -> Path:
    # a hook of PEP 517; the last line of the output is the name of the built file
    program = f"from setuptools import build_meta; print(build_meta.{hook}({str(target)!r}))"
    built = subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return target / built.stdout.splitlines()[-1]


def unpack(sdist: Path, target: Path) -> Path:
    """Unpack an sdist and return the folder with its files."""
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    [folder] = target.iterdir()
    return folder


class Installation:
    """A virtual environment with a wheel or sdist and its requirements, and an empty working folder.

    `extras` are extras of the wheel or sdist; `tools` are more distributions to install, such as pytest.
    """

    def __init__(
        self, root: Path, archive: Path, *, extras: Iterable[str] = ("all",), tools: Iterable[str] = ()
    ) -> None:
        self.environment_folder = root / "environment"
        self.working_folder = root / "elsewhere"
        self.working_folder.mkdir()
        self.python = self.environment_folder / "bin" / "python"
        _run(sys.executable, "-m", "venv", "--without-pip", str(self.environment_folder))
        self.required = list_required(read_requirements(archive), extras, tools)
        for name in self.required:
            self._link(metadata.distribution(name))
        options = [
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "--disable-pip-version-check",
            "--quiet",
        ]
        _run(sys.executable, "-m", "pip", "--python", str(self.python), "install", *options, str(archive))

    def _link(self, distribution: metadata.Distribution) -> None:
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            target = self.site_packages / top
            if not target.exists():
                target.symlink_to(str(distribution.locate_file(top)))

    @property
    def site_packages(self) -> Path:
        """The folder with the installed packages."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.environment_folder)}))

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment with only these settings; `stdout` also has the errors."""
        program, *arguments = command
        return subprocess.run(
            [str(self.environment_folder / "bin" / program), *arguments],
            cwd=self.working_folder,
            env=clean_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    @contextmanager
    def running(self, module: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a module with only these settings, and stop it at the end of the block."""
        process = subprocess.Popen(
            [str(self.python), "-m", module], cwd=self.working_folder, env=clean_environment(settings)
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def read_requirements(archive: Path) -> list[str]:
    """Return the requirements of a wheel or sdist, each with its marker."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            text = wheel.read(name)
    else:
        with tarfile.open(archive) as sdist:
            [name] = [
                name for name in sdist.getnames() if name.count("/") == 1 and name.endswith("/PKG-INFO")
            ]
            file = sdist.extractfile(name)
            assert file is not None
            text = file.read()
    return email.message_from_bytes(text).get_all("Requires-Dist", [])


def list_required(own: Sequence[str], extras: Iterable[str], tools: Iterable[str]) -> set[str]:
    """Return the distributions that the requirements in `own`, these extras and these tools need here."""
    waiting = [("echo-markets", extra) for extra in ("", *extras)] + [(tool, "") for tool in tools]
    found: set[tuple[str, str]] = set()
    while waiting:
        name, extra = each = waiting.pop()
        if each in found:
            continue
        found.add(each)
        for line in own if name == "echo-markets" else metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), extra) for extra in ("", *needed.extras)]
    return {name for name, _ in found} - {"echo-markets"}


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables with only these settings, and without Python paths of the tests."""
    names = {name.upper() for name in (*Settings.model_fields, *StackSettings.model_fields)}
    left_out = names | {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {**{name: value for name, value in os.environ.items() if name not in left_out}, **settings}


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
