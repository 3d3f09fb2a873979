"""Streamlit's configuration file of the dashboard, `.streamlit/config.toml`."""

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
    """Return the options of the file by their dotted names."""
    document = tomllib.loads((FOLDER / ".streamlit" / "config.toml").read_text("utf-8"))
    return dict(flatten(document))


def flatten(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested tables with its dotted name."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_streamlit_knows_every_option(options: dict[str, Any]) -> None:
    """Every option exists in Streamlit, which would only warn about a misspelt option."""
    assert set(options) <= set(config._config_options_template)  # Streamlit has no public list


def test_statistics_error_details_and_file_watcher_are_off(options: dict[str, Any]) -> None:
    """Usage statistics, error details, the file watcher and garbage collection after a run are turned off."""
    assert options["browser.gatherUsageStats"] is False
    assert options["client.showErrorDetails"] == "none"
    assert options["server.fileWatcherType"] == "none"
    assert options["runner.postScriptGC"] is False


def test_fonts_are_files_of_the_dashboard(options: dict[str, Any]) -> None:
    """Every font face is a file of the dashboard, and the licence of the font is a file beside it."""
    faces = options["theme.fontFaces"]
    for face in faces:
        name = face["url"].removeprefix("app/")
        assert (FOLDER / name).is_file()
    assert "SIL OPEN FONT LICENSE" in (FOLDER / "static" / "INTER-LICENSE.txt").read_text("utf-8")


def test_both_themes_set_the_same_colours(options: dict[str, Any]) -> None:
    """The light theme and the dark theme set colours with the same names."""
    light = {name.removeprefix("theme.light.") for name in options if ".light." in name}
    dark = {name.removeprefix("theme.dark.") for name in options if ".dark." in name}
    assert light == dark


def test_streamlits_message_for_uncaught_errors_is_known() -> None:
    """Streamlit's log line for an uncaught error has this text, by which the dashboard drops the line."""
    assert '"Uncaught app execution"' in inspect.getsource(error_util)
