"""Streamlit elements that pages share: metric cards and tables, each in one form."""

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import streamlit as st

CARD_PIXELS = 155
"""Minimum width of a metric card: two fit beside each other on a phone."""

ROW_PIXELS = 38
VISIBLE_ROWS = 12

PROGRESS: dict[str, Any] = {"format": "%.0f%%", "min_value": 0, "max_value": 100}
MINUTES: dict[str, Any] = {"format": "YYYY-MM-DD HH:mm", "timezone": "UTC"}
"""Options of columns: a share in percent as a bar, a time to the minute."""


def link_player() -> Any:
    """Return the column of players whose cells are made by `build_player_link`."""
    return st.column_config.LinkColumn(
        "Player", display_text=r"player=(.+)$", help="Opens the player's portfolio"
    )


def show_metric(
    label: str,
    value: str,
    note: str | None = None,
    *,
    help: str,  # noqa: A002  # Streamlit's word for it
    is_change: bool = False,
    **options: Any,
) -> None:
    """Show a metric card with a note below; only a change is drawn as gain (green) or loss (red).

    `help` says what the figure is: of whom, over which time, and how old it can be.
    """
    st.metric(
        label,
        value,
        help=help,
        delta=note,
        delta_color="normal" if is_change else "off",
        delta_arrow="auto" if is_change else "off",
        border=True,
        height="stretch",
        **options,
    )


def show_table(
    table: pd.DataFrame | pa.Table,
    columns: Mapping[str, Any],
    *,
    alt: str,
    visible_rows: int = VISIBLE_ROWS,
    **options: Any,
) -> Any:
    """Show a table without its index and return its selection; a table of more rows scrolls."""
    rows = table.num_rows if isinstance(table, pa.Table) else len(table)
    # a scrolling table ends in half a row, which shows that there is more
    height: Literal["content"] | int = (
        "content" if rows <= visible_rows else (visible_rows + 1) * ROW_PIXELS + ROW_PIXELS // 2
    )
    return st.dataframe(
        table,
        hide_index=True,
        height=height,
        row_height=ROW_PIXELS,
        alt=alt,
        column_config=dict(columns),
        **options,
    )
