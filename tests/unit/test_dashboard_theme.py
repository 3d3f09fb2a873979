"""The cache that replaces Streamlit's theme builder, and Streamlit versions that have no theme builder."""

from collections.abc import Callable
from types import ModuleType

import pytest
from streamlit.proto.NewSession_pb2 import CustomThemeConfig
from streamlit.runtime import app_session

from dashboard.server.application import THEME_BUILDER, build_theme_once


class ThemeBuilder:
    """Stands in for Streamlit's theme builder, which fills a theme section, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, message: CustomThemeConfig, section: str = "theme") -> None:
        """Fill the section with a colour that depends on the call; the sidebar's section stays empty."""
        self.calls += 1
        if section != "theme.sidebar":
            message.primary_color = f"#{self.calls:06}"


def install_cache(build: ThemeBuilder) -> Callable[..., None]:
    """Return the caching function that replaces `build` in a module."""
    module = ModuleType("a Streamlit")
    setattr(module, THEME_BUILDER, build)
    build_theme_once(module)
    fill: Callable[..., None] = getattr(module, THEME_BUILDER)
    return fill


def test_each_section_is_built_once() -> None:
    """A section is built once and then copied into every message; each section has its own content."""
    build = ThemeBuilder()
    fill = install_cache(build)
    first, second, other = CustomThemeConfig(), CustomThemeConfig(), CustomThemeConfig()
    fill(first)
    fill(second)
    fill(other, "theme.dark")
    assert second == first
    assert other != first
    assert build.calls == 2


def test_a_section_without_options_stays_absent() -> None:
    """A section without options stays unset, because a browser would take an empty one for a theme."""
    message = CustomThemeConfig()
    install_cache(ThemeBuilder())(message.sidebar, "theme.sidebar")
    assert not message.HasField("sidebar")


def test_a_changed_message_does_not_change_the_cache() -> None:
    """A change to a message does not change the cached section."""
    fill = install_cache(ThemeBuilder())
    first, second = CustomThemeConfig(), CustomThemeConfig()
    fill(first)
    first.primary_color = "#ffffff"
    fill(second)
    assert second.primary_color == "#000001"


def test_streamlit_still_calls_the_theme_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """This test fails if an update of Streamlit moves its theme builder; pages would then become slow."""
    build = getattr(app_session, THEME_BUILDER)
    monkeypatch.setattr(app_session, THEME_BUILDER, build)
    build_theme_once()
    kept, built = CustomThemeConfig(), CustomThemeConfig()
    getattr(app_session, THEME_BUILDER)(kept, "theme")
    build(built, "theme")
    assert kept == built
    assert THEME_BUILDER in app_session.AppSession._create_new_session_message.__code__.co_names


def test_a_streamlit_without_the_theme_builder_is_unchanged() -> None:
    """If Streamlit has no theme builder, nothing is replaced and no error is raised."""
    module = ModuleType("another")
    build_theme_once(module)
    assert not hasattr(module, THEME_BUILDER)
