"""The theme as Streamlit sends it to browsers, built once instead of in every run.

Owns one change to Streamlit's inside, decided in docs/decisions/0008-streamlit.md: the first
message of each run carries the whole theme, which Streamlit builds anew from its configuration
on the event loop, a tenth of what a run costs. The configuration does not change while we serve.
"""

import logging
from collections.abc import Callable
from types import ModuleType

from streamlit.proto.NewSession_pb2 import CustomThemeConfig
from streamlit.runtime import app_session

logger = logging.getLogger(__name__)

BUILDER = "_populate_theme_msg"
"""What Streamlit calls for each section of the theme: fills a message from its configuration."""


def keep_theme(module: ModuleType = app_session) -> None:
    """Let each section of the theme be built once; a Streamlit that builds it otherwise stays as it is."""
    build = getattr(module, BUILDER, None)
    if build is None:
        logger.info("this Streamlit has no %s: the theme is built in every run", BUILDER)
    else:
        setattr(module, BUILDER, keep_sections(build))


def keep_sections(build: Callable[[CustomThemeConfig, str], None]) -> Callable[..., None]:
    """Return a builder that fills messages with what `build` made the first time for each section."""
    kept: dict[str, CustomThemeConfig] = {}

    def fill(message: CustomThemeConfig, section: str = "theme") -> None:
        if section not in kept:
            made = CustomThemeConfig()
            build(made, section)
            kept[section] = made
        # a section without options must stay absent, which merging an empty message would change
        if kept[section].ByteSize():
            message.MergeFrom(kept[section])

    return fill
