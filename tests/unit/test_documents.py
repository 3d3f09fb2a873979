"""The documents agree with the code, and their links are valid."""

import re
from pathlib import Path

import pytest

from core import EnhancedDatabaseService, Settings, models
from core.cache.kinds import KINDS
from core.cli import main
from core.database.replication_lag import MAX_LAG_SECONDS
from core.settings import RoleSettings
from core.stack.settings import StackSettings
from dashboard.pages.leaderboards import download as leaderboards_download
from dashboard.pages.operations.advice import build_anchor
from dashboard.pages.players import download as players_download
from dashboard.pages.quests import download as quests_download
from tests.reference import build_pages, show_default
from tests.topologies import PICTURES, draw_pictures

DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "data/README.md", "docs/**/*.md")
README_BYTES = 7_168


def list_documents(repository: Path) -> list[Path]:
    """Return the documents of the repository that are written for people."""
    return [path for pattern in DOCUMENTS for path in sorted(repository.glob(pattern))]


def list_anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    headings = re.findall(r"^#+ +(.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {build_anchor(heading) for heading in headings}


def test_the_readme_is_short(repository: Path) -> None:
    """README.md has at most README_BYTES bytes; details belong in docs/."""
    assert len((repository / "README.md").read_bytes()) <= README_BYTES


def test_every_document_is_reached_from_the_readme(repository: Path) -> None:
    """README.md links each document of docs/, and the list of decisions links each decision."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    decisions = (repository / "docs/decisions/README.md").read_text(encoding="utf-8")
    for path in (repository / "docs").glob("*.md"):
        assert f"](docs/{path.name})" in readme, f"README.md does not link docs/{path.name}"
    for path in (repository / "docs/decisions").glob("0*.md"):
        assert f"]({path.name})" in decisions, f"docs/decisions/README.md does not link {path.name}"


def test_the_documented_replica_age_is_that_of_the_code(repository: Path) -> None:
    """docs/replicas.md and the docstring of the service state MAX_LAG_SECONDS."""
    page = (repository / "docs/replicas.md").read_text(encoding="utf-8")
    assert f'means "{MAX_LAG_SECONDS:g} s old at most"' in page
    assert f"at least {MAX_LAG_SECONDS:g} s ago" in " ".join((EnhancedDatabaseService.__doc__ or "").split())


def test_every_relative_link_is_valid(repository: Path) -> None:
    """Every relative link names an existing file and, after a #, an existing heading."""
    for document in list_documents(repository):
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            if not re.match(r"[a-z]+:", link):
                target = (document.parent / name).resolve() if name else document
                assert target.exists(), f"{document.name} links {link}"
                assert not anchor or anchor in list_anchors(target), f"{document.name} links {link}"


def test_every_path_exists(repository: Path) -> None:
    """Every path of the repository that a document names exists."""
    for document in list_documents(repository):
        for name in re.findall(
            r"`((?:core|dashboard|exporter|tests|migrations|data|docs)/[\w./-]*)`",
            document.read_text("utf-8"),
        ):
            is_written_by_tests = name.startswith("tests/output/")
            assert is_written_by_tests or (repository / name).exists(), f"{document.name} names {name}"


@pytest.mark.parametrize("page", ["docs/settings.md", "docs/api.md", *draw_pictures()])
def test_generated_pages_are_up_to_date(repository: Path, page: str) -> None:
    """The page has the content that `make reference` writes."""
    assert (repository / page).read_text(encoding="utf-8") == build_pages(repository)[page]


def test_every_picture_is_shown(repository: Path) -> None:
    """docs/topologies.md shows every picture, with its title as the alternative text."""
    shown = (repository / "docs" / "topologies.md").read_text(encoding="utf-8")
    assert [
        (title, f"docs/{path}") for title, path in re.findall(r"!\[(.+?)\]\((images/topology-.+?)\)", shown)
    ] == [(picture.title, path) for picture, path in zip(PICTURES.values(), draw_pictures(), strict=True)]


def test_every_setting_is_in_the_example(repository: Path) -> None:
    """`.env.example` names each setting once, with its default if the setting has one."""
    example = (repository / ".env.example").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE))
    fields = {**RoleSettings.model_fields, **StackSettings.model_fields, **Settings.model_fields}
    assert sorted(found) == sorted(name.upper() for name in fields)
    assert len(found) == len(re.findall(r"^#[A-Z_]+=", example, re.MULTILINE))
    for name, field in fields.items():
        if field.default and not field.is_required():
            assert f"`{found[name.upper()]}`" == show_default(field.default), name


def test_every_setting_is_on_the_page(repository: Path) -> None:
    """The tables of docs/settings.md have one row for each setting."""
    page = (repository / "docs/settings.md").read_text(encoding="utf-8")
    fields = {**RoleSettings.model_fields, **StackSettings.model_fields, **Settings.model_fields}
    documented = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert sorted(documented) == sorted(name.upper() for name in fields)


def test_every_table_is_documented(repository: Path) -> None:
    """`docs/schema.md` has one row for each table of the models, and no other row."""
    text = (repository / "docs/schema.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(documented) == sorted(model._meta.table_name for model in models.ALL_MODELS)


def test_every_kind_of_cache_key_is_documented(repository: Path) -> None:
    """docs/cache.md has the key and the time to live of each kind, and docs/metrics.md has its label."""
    text = (repository / "docs/cache.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+):[^|]*\| (\d+) s \|$", text, re.MULTILINE)
    assert {name: int(seconds) for name, seconds in documented} == {
        kind.name: kind.ttl_seconds for kind in KINDS
    }
    metrics = (repository / "docs/metrics.md").read_text(encoding="utf-8")
    [labels] = re.findall(r"`cache` = ([a-z_, ]+)", metrics)
    assert sorted(labels.strip().split(", ")) == sorted(kind.name for kind in KINDS)


def test_every_download_is_documented(repository: Path) -> None:
    """`docs/running.md` has the path of each file that the dashboard offers."""
    text = (repository / "docs/running.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(/download/[\w.-]+)", text, re.MULTILINE)
    assert sorted(documented) == sorted(
        (
            leaderboards_download.PATH,
            players_download.SILENT_PATH,
            players_download.RETENTION_PATH,
            quests_download.PATH,
        )
    )


def test_every_command_is_documented(repository: Path) -> None:
    """`docs/command-line.md` has each command that `echo-markets --help` lists."""
    text = (repository / "docs/command-line.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([\w-]+)", text, re.MULTILINE))
    assert documented == {name for name, command in main.commands.items() if not command.hidden}
