"""The theme that is built once: what browsers get, and what happens with another Streamlit."""

from types import ModuleType

import pytest
from streamlit.proto.NewSession_pb2 import CustomThemeConfig
from streamlit.runtime import app_session

from dashboard import server_theme


class Builder:
    """Fills a theme's section as Streamlit does, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, message: CustomThemeConfig, section: str = "theme") -> None:
        """Fill the section; that of the sidebar has no options."""
        self.calls += 1
        if section != "theme.sidebar":
            message.primary_color = f"#{self.calls:06}"


def test_each_section_is_built_once_and_sent_in_every_run() -> None:
    """The second message of a section is the first one's equal, and no other section's."""
    build = Builder()
    fill = server_theme.keep_sections(build)
    first, second, other = CustomThemeConfig(), CustomThemeConfig(), CustomThemeConfig()
    fill(first)
    fill(second)
    fill(other, "theme.dark")
    assert second == first
    assert other != first
    assert build.calls == 2


def test_a_section_without_options_stays_absent() -> None:
    """A browser takes an empty section for one that was configured."""
    message = CustomThemeConfig()
    server_theme.keep_sections(Builder())(message.sidebar, "theme.sidebar")
    assert not message.HasField("sidebar")


def test_a_message_cannot_change_what_is_kept() -> None:
    """What a run does with its message shows in no other run."""
    fill = server_theme.keep_sections(Builder())
    first, second = CustomThemeConfig(), CustomThemeConfig()
    fill(first)
    first.primary_color = "#ffffff"
    fill(second)
    assert second.primary_color == "#000001"


def test_streamlit_still_builds_its_theme_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of Streamlit that moves the builder shows here, before it shows as slow pages."""
    monkeypatch.setattr(app_session, server_theme.BUILDER, getattr(app_session, server_theme.BUILDER))
    build = getattr(app_session, server_theme.BUILDER)
    server_theme.keep_theme()
    kept, built = CustomThemeConfig(), CustomThemeConfig()
    getattr(app_session, server_theme.BUILDER)(kept, "theme")
    build(built, "theme")
    assert kept == built
    assert server_theme.BUILDER in app_session.AppSession._create_new_session_message.__code__.co_names


def test_another_streamlit_stays_as_it_is() -> None:
    """Without the builder there is nothing to do, and no reason not to serve."""
    module = ModuleType("another")
    server_theme.keep_theme(module)
    assert not hasattr(module, server_theme.BUILDER)
