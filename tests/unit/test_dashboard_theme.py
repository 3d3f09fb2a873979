"""The theme is built once: what browsers get, and another version of Streamlit."""

from collections.abc import Callable
from types import ModuleType

import pytest
from streamlit.proto.NewSession_pb2 import CustomThemeConfig
from streamlit.runtime import app_session

from dashboard.server.application import THEME_BUILDER, build_theme_once


class Builder:
    """Fills a theme's section as Streamlit does, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, message: CustomThemeConfig, section: str = "theme") -> None:
        """Fill the section; that of the sidebar has no options."""
        self.calls += 1
        if section != "theme.sidebar":
            message.primary_color = f"#{self.calls:06}"


def keep_sections(build: Builder) -> Callable[..., None]:
    """Return the builder that replaces this one."""
    module = ModuleType("a Streamlit")
    setattr(module, THEME_BUILDER, build)
    build_theme_once(module)
    fill: Callable[..., None] = getattr(module, THEME_BUILDER)
    return fill


def test_each_section_is_built_once_and_sent_in_every_run() -> None:
    """The second message of a section equals the first, and differs from other sections."""
    build = Builder()
    fill = keep_sections(build)
    first, second, other = CustomThemeConfig(), CustomThemeConfig(), CustomThemeConfig()
    fill(first)
    fill(second)
    fill(other, "theme.dark")
    assert second == first
    assert other != first
    assert build.calls == 2


def test_a_section_without_options_stays_absent() -> None:
    """A browser would take an empty section for a configured one."""
    message = CustomThemeConfig()
    keep_sections(Builder())(message.sidebar, "theme.sidebar")
    assert not message.HasField("sidebar")


def test_a_message_cannot_change_what_is_kept() -> None:
    """A run that changes its message changes no other run."""
    fill = keep_sections(Builder())
    first, second = CustomThemeConfig(), CustomThemeConfig()
    fill(first)
    first.primary_color = "#ffffff"
    fill(second)
    assert second.primary_color == "#000001"


def test_streamlit_still_builds_its_theme_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update of Streamlit that moves the builder this test fails, before pages become slow."""
    build = getattr(app_session, THEME_BUILDER)
    monkeypatch.setattr(app_session, THEME_BUILDER, build)
    build_theme_once()
    kept, built = CustomThemeConfig(), CustomThemeConfig()
    getattr(app_session, THEME_BUILDER)(kept, "theme")
    build(built, "theme")
    assert kept == built
    assert THEME_BUILDER in app_session.AppSession._create_new_session_message.__code__.co_names


def test_another_streamlit_stays_as_it_is() -> None:
    """Without the builder nothing is replaced, and the dashboard still serves."""
    module = ModuleType("another")
    build_theme_once(module)
    assert not hasattr(module, THEME_BUILDER)
