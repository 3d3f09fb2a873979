"""The stack as others install it: a wheel, built from the sdist, in a virtual environment of its own.

Owns building, installing without a package index, and running what is installed outside of the
checkout. Third-party packages are those of the environment that runs the tests.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from core import Settings
from core.stack.settings import StackSettings

COMMAND_SECONDS = 120
STOP_SECONDS = 10


def build_wheel(source: Path, target: Path) -> Path:
    """Build a wheel as a package manager does; it gets nothing but `source`."""
    return _build("build_wheel", source, target)


def build_sdist(source: Path, target: Path) -> Path:
    """Build a source distribution."""
    return _build("build_sdist", source, target)


def _build(hook: str, source: Path, target: Path) -> Path:
    # the hooks of PEP 517; the name of the file that they made is the last line
    program = f"from setuptools import build_meta; print(build_meta.{hook}({str(target)!r}))"
    built = subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return target / built.stdout.splitlines()[-1]


def unpack(sdist: Path, target: Path) -> Path:
    """Unpack a source distribution and return its folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    [folder] = target.iterdir()
    return folder


class Installation:
    """A virtual environment with the wheel in it, and an empty folder to run it from."""

    def __init__(self, root: Path, wheel: Path) -> None:
        self.environment_folder = root / "environment"
        self.working_folder = root / "elsewhere"
        self.working_folder.mkdir()
        self.python = self.environment_folder / "bin" / "python"
        _run(sys.executable, "-m", "venv", "--without-pip", str(self.environment_folder))
        # the package's own files come first; an editable install of the checkout stays unseen, because
        # a folder that a .pth file names has its own .pth files ignored
        shared = self.site_packages / "shared.pth"
        folders = [folder for folder in sys.path if Path(folder).name in {"site-packages", "dist-packages"}]
        shared.write_text("".join(f"{folder}\n" for folder in folders), "utf-8")
        options = ["--no-index", "--no-deps", "--disable-pip-version-check", "--quiet"]
        _run(sys.executable, "-m", "pip", "--python", str(self.python), "install", *options, str(wheel))

    @property
    def site_packages(self) -> Path:
        """Where the wheel's files are."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.environment_folder)}))

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment with these settings and no others; errors are in `stdout`."""
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
        """Run a module until the end of the block."""
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


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that has these settings and no others, nor a path to the checkout."""
    names = {name.upper() for name in (*Settings.model_fields, *StackSettings.model_fields)}
    left_out = names | {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {**{name: value for name, value in os.environ.items() if name not in left_out}, **settings}


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
