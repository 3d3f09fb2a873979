"""The configuration that Streamlit reads beside the script."""

import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit import config, error_util

FOLDER = Path(__file__).parents[2] / "dashboard"


@pytest.fixture
def options() -> dict[str, Any]:
    """The options by their dotted names."""
    document = tomllib.loads((FOLDER / ".streamlit" / "config.toml").read_text("utf-8"))
    return dict(flatten(document))


def flatten(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested tables with its dotted name."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_streamlit_knows_every_option(options: dict[str, Any]) -> None:
    """A misspelt option would be ignored with a warning."""
    assert set(options) <= set(config._config_options_template)  # no public list of options


def test_nothing_is_sent_out_and_no_error_is_shown(options: dict[str, Any]) -> None:
    """These options keep data private and let the pages show their own error states."""
    assert options["browser.gatherUsageStats"] is False
    assert options["client.showErrorDetails"] == "none"
    assert options["server.fileWatcherType"] == "none"
    assert options["runner.postScriptGC"] is False


def test_fonts_are_served_from_here(options: dict[str, Any]) -> None:
    """Every font face is a file of the dashboard, and its licence is next to it."""
    faces = options["theme.fontFaces"]
    for face in faces:
        name = face["url"].removeprefix("app/")
        assert (FOLDER / name).is_file()
    assert "SIL OPEN FONT LICENSE" in (FOLDER / "static" / "INTER-LICENSE.txt").read_text("utf-8")


def test_both_themes_set_the_same_colours(options: dict[str, Any]) -> None:
    """Every colour of the light theme exists in the dark theme too."""
    light = {name.removeprefix("theme.light.") for name in options if ".light." in name}
    dark = {name.removeprefix("theme.dark.") for name in options if ".dark." in name}
    assert light == dark


def test_an_unexpected_error_is_logged_once() -> None:
    """The server filters this message of Streamlit by its text, because the page logs the same error."""
    assert '"Uncaught app execution"' in inspect.getsource(error_util)
