"""Lock files, extras and containers agree with pyproject.toml and the settings."""

import contextlib
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from core.installation import MODULES
from core.stack.compose import PUBLISHED
from core.stack.settings import StackSettings

# Lock file: the extras and dependency groups that it locks in addition to the package's dependencies.
IMAGE = ("dashboard", "exporter", "frames", "simulation")
LOCKS = {
    "requirements.lock": (*IMAGE,),
    "requirements-local.lock": (*IMAGE, "local", "build"),
    "requirements-dev.lock": (*IMAGE, "local", "build", "dev"),
}


def read_lock(path: Path) -> dict[str, str]:
    """Return each locked line, by package name."""
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {re.split(r"\[|==", line)[0]: line for line in lines}


def read_locked_extras(path: Path) -> dict[str, set[str]]:
    """Return the extras of each locked package, by package name."""
    text = path.read_text(encoding="utf-8")
    return {
        name: set(extras.split(","))
        for name, extras in re.findall(r"^([\w.-]+)\[([^]]+)\]==", text, re.MULTILINE)
    }


def read_requirements(repository: Path, lock: str) -> set[str]:
    """Return the package names that pyproject.toml requires for one lock file."""
    document = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    sets = document["project"]["optional-dependencies"] | document["dependency-groups"]
    lines = [line for name in LOCKS[lock] for line in sets[name] if isinstance(line, str)]
    return {
        canonicalize_name(Requirement(line).name) for line in (*document["project"]["dependencies"], *lines)
    }


def test_module_checks_cover_each_requirement_of_an_extra(repository: Path) -> None:
    """`core.installation` lists one module per requirement of an extra; the extra `all` has all extras."""
    extras = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    distributions = metadata.packages_distributions()
    for extra, modules in MODULES.items():
        wanted = {canonicalize_name(Requirement(line).name) for line in extras[extra]}
        assert {canonicalize_name(distributions[module][0]) for module in modules} == wanted, extra
    assert extras["all"] == [f"echo-markets[{','.join(sorted(extras.keys() - {'all'}))}]"]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_every_requirement_with_its_hash(repository: Path, lock: str) -> None:
    """A lock file has every requirement of pyproject.toml, each with its hash."""
    locked = read_lock(repository / lock)
    assert read_requirements(repository, lock) - locked.keys() == set()
    assert [name for name, line in locked.items() if "--hash=sha256:" not in line] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_the_extras_that_its_packages_ask_for(repository: Path, lock: str) -> None:
    """If a locked package requires `name[extra]`, `name` is locked with this extra, as pip 23 demands."""
    extras = read_locked_extras(repository / lock)
    missing = []
    for name in read_lock(repository / lock):
        # a package that is locked for another platform is not installed here
        with contextlib.suppress(metadata.PackageNotFoundError):
            for line in metadata.requires(name) or ():
                wanted = Requirement(line)
                needed = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
                if needed and wanted.extras - extras.get(canonicalize_name(wanted.name), set()):
                    missing.append(f"{name} asks for {line}")
    assert missing == []


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_index(repository: Path, lock: str) -> None:
    """A lock file has no URL and no package index, so it works with any index."""
    text = (repository / lock).read_text(encoding="utf-8")
    assert (
        re.findall(r"://|^\s*-{1,2}(?:index-url|extra-index-url|find-links|i|f)\b|@ ", text, re.MULTILINE)
        == []
    )


def test_versions_agree(repository: Path) -> None:
    """The lock files of the image, the local stack and the tests have the same versions."""
    runtime, local, dev = (read_lock(repository / lock) for lock in LOCKS)
    assert [name for name, line in runtime.items() if local[name] != line] == []
    assert [name for name, line in local.items() if dev[name] != line] == []


def test_containers_have_the_documented_defaults(repository: Path) -> None:
    """The defaults in compose.yaml equal those of `StackSettings`, because they apply without make."""
    text = (repository / "compose.yaml").read_text(encoding="utf-8")
    settings = StackSettings(_env_file=None)  # type: ignore[call-arg]  # pydantic's own argument
    defaults = set(re.findall(r"\$\{(\w+):-([^}]*)\}", text)) - {("COMPOSE_PROJECT_NAME", "echo-markets")}
    for name, default in ((name, default) for name, default in defaults if not name.endswith("_IMAGE")):
        value = getattr(settings, name.lower())
        assert default == (str(value).lower() if isinstance(value, bool) else str(value)), name
    assert {name for name, _ in defaults} >= set(PUBLISHED.values())
