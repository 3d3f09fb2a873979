"""Writes the pages of docs/ that are generated from the code: settings, API reference and pictures.

`python -m tests.reference` writes them; `tests/unit/test_documents.py` fails when one is out of date.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr

import core.errors
import core.records
from core import EnhancedDatabaseService, Settings, open_service
from core.service.player_view import PlayerView
from core.settings import RoleSettings
from core.stack.settings import StackSettings
from tests.topologies import draw_pictures

REPOSITORY = Path(__file__).resolve().parents[1]
MARKER = "<!-- `make reference` writes"
MODULES = re.compile(r"\b[A-Za-z_][\w.]*\.(?=[A-Za-z_])")


def main() -> None:
    """Write every generated page."""
    for name, text in build_pages(REPOSITORY).items():
        (REPOSITORY / name).write_text(text, encoding="utf-8")


def build_pages(repository: Path) -> dict[str, str]:
    """Return the text of each generated file by its path; the text above a page's marker is kept."""
    pages = {"docs/settings.md": list_settings(repository), "docs/api.md": list_api()}
    written = {
        name: re.sub(
            rf"(^{re.escape(MARKER)}[^\n]*\n).*\Z",
            lambda found, lines=lines: found[1] + "\n" + "\n".join(lines) + "\n",  # type: ignore[misc]
            (repository / name).read_text(encoding="utf-8"),
            flags=re.DOTALL | re.MULTILINE,
        )
        for name, lines in pages.items()
    }
    return written | draw_pictures()


def list_settings(repository: Path) -> Iterator[str]:
    """Yield a table for each part of `.env.example`; default and allowed values come from the code."""
    fields = {**RoleSettings.model_fields, **StackSettings.model_fields, **Settings.model_fields}
    text = (repository / ".env.example").read_text(encoding="utf-8")
    for title, part in re.findall(r"^# --- (.+?) -+\n(.*?)(?=^# ---|\Z)", text, re.DOTALL | re.MULTILINE):
        yield f"## {title}\n\n| variable | default | allowed | meaning |\n| --- | --- | --- | --- |"
        for comment, name in re.findall(r"((?:^# .*\n)+)^#([A-Z_]+)=", part, re.MULTILINE):
            field = fields[name.lower()]
            meaning = " ".join(comment.replace("# ", "").split())
            default = "required" if field.is_required() else show_default(field.default)
            row = f"| `{name}` | {default} | {field.description} | {meaning} |"
            yield re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", row)
        yield ""


def show_default(value: Any) -> str:
    """Return a default as it is written in the environment."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "none" if value in {None, ""} else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def list_api() -> Iterator[str]:
    """Yield the calls of the service by area, then records and errors, each with signature and docstring."""
    yield "## Opening\n"
    yield from describe_function("open_service", open_service)
    for area in reversed(EnhancedDatabaseService.__mro__):
        methods = [name for name, value in vars(area).items() if is_public_call(name, value)]
        if methods:
            yield f"## {area.__module__.rpartition('.')[2].replace('_', ' ').capitalize()}\n"
        for name in methods:
            yield from describe_function(name, getattr(area, name))
    yield f"## Player view\n\n{clean(PlayerView)}\n"
    for name in [name for name, value in vars(PlayerView).items() if is_public_call(name, value)]:
        yield from describe_function(f"as_user().{name}", getattr(PlayerView, name))
    yield "## Records\n"
    for record in list_types(core.records):
        yield f"### {record.__name__}\n\n{clean(record)}\n"
        fields = inspect.get_annotations(record)
        yield from (f"- `{name}`: {show_annotation(kind)}" for name, kind in fields.items())
        yield ""
    yield "## Errors\n"
    for error in list_types(core.errors):
        parent = error.__bases__[0].__name__
        yield f"### {error.__name__}\n\nBase class: `{parent}`. {clean(error)}\n"


def is_public_call(name: str, value: object) -> bool:
    """Return whether a member of the service is one of its public calls."""
    return not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, staticmethod))


def list_types(module: Any) -> list[type]:
    """Return the public types of a module in the order of its `__all__`, or of their definition."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = [getattr(module, name) for name in names]
    return [kind for kind in found if inspect.isclass(kind) and kind.__module__.startswith(module.__name__)]


def describe_function(name: str, function: Any) -> Iterator[str]:
    """Yield a heading, the signature and the docstring of a function."""
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    shown = MODULES.sub("", str(signature.replace(parameters=parameters)))
    yield f"### {name}\n\n```python\n{name}{shown}\n```\n\n{clean(function)}\n"


def show_annotation(kind: Any) -> str:
    """Return a type as it is written, without the names of modules."""
    text = kind.__name__ if inspect.isclass(kind) and not get_args(kind) else str(kind)
    return f"`{MODULES.sub('', text)}`"


def clean(documented: Any) -> str:
    """Return the docstring of an object without its indentation."""
    return inspect.getdoc(documented) or ""


if __name__ == "__main__":
    main()
