"""docs/private-apis.md lists each private name of another library that the code uses, with its test."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("core", "dashboard", "exporter")
PUBLIC_STREAMLIT = {"streamlit", "streamlit.errors"}
UNDOCUMENTED = re.compile(r"streamlit(\..+)?|prometheus_client\.(mmap_dict|utils|values)")
DOCUMENTED_UNDERSCORES = {"_replace", "_asdict", "_make", "_fields", "_getframe", "_current_frames"}
"""Names with an underscore that the documentation of Python has."""


def parse_modules(repository: Path) -> Iterator[ast.Module]:
    """Yield the syntax tree of each module in PACKAGES."""
    for package in PACKAGES:
        for path in (repository / package).rglob("*.py"):
            yield ast.parse(path.read_text(encoding="utf-8"))


def find_private_imports(module: ast.Module) -> set[str]:
    """Return the undocumented modules of other libraries that a module imports."""
    found = {
        node.module
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    return {name for name in found if UNDOCUMENTED.fullmatch(name)} - PUBLIC_STREAMLIT


def find_private_attributes(modules: list[ast.Module]) -> set[str]:
    """Return the attributes with a leading underscore that these modules use and none of them defines."""
    used, defined = set[str](), set[str]()
    for node in (node for module in modules for node in ast.walk(module)):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
    return used - defined - DOCUMENTED_UNDERSCORES


def test_every_private_name_is_listed(repository: Path) -> None:
    """Each imported private module and each used private attribute is in docs/private-apis.md."""
    document = (repository / "docs" / "private-apis.md").read_text(encoding="utf-8")
    modules = list(parse_modules(repository))
    names = set[str]().union(*map(find_private_imports, modules)) | find_private_attributes(modules)
    assert {name for name in names if f"`{name}`" not in document} == set()


def test_every_listed_test_exists(repository: Path) -> None:
    """Each test that docs/private-apis.md names exists, so a rename cannot leave a private name untested."""
    document = (repository / "docs/private-apis.md").read_text(encoding="utf-8")
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (repository / "tests").rglob("test_*.py")
    )
    named = set(re.findall(r"`(test_\w+)`", document))
    assert named
    assert {name for name in named if f"def {name}(" not in sources} == set()
