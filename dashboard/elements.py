"""Streamlit elements that pages share: metric cards and tables, each in one form."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st

from dashboard.formats import format_change

CARD_PIXELS = 155
"""Minimum width of a metric card: two fit beside each other on a phone."""

ROW_PIXELS = 38
VISIBLE_ROWS = 12

PROGRESS: dict[str, Any] = {"format": "%.0f%%", "min_value": 0, "max_value": 100}
MINUTES: dict[str, Any] = {"format": "YYYY-MM-DD HH:mm", "timezone": "UTC"}
"""Options of columns: a share in percent as a bar, a time to the minute."""


_SIGNED: Final = re.compile(r"%\+,\.(?P<places>\d)f(?P<unit>.*)")


def build_change_column(label: str, *, places: int = 2, unit: str = "", **options: Any) -> Any:
    """Return the column of a change: numbers with their sign, as `format_change` writes them."""
    text = unit.replace("%", "%%")
    return st.column_config.NumberColumn(label, format=f"%+,.{places}f{text}", **options)


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


def show_folded(label: str, show: Callable[[], object], *, key: str) -> None:
    """Show a part below a heading that opens it; while it is closed, nothing of it is made or sent."""
    part = st.expander(label, key=key, on_change="rerun")
    if part.open:
        with part:
            show()


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
    data, shown = _unsign_zeros(table, columns, missing=str(options.get("placeholder", "")))
    # a scrolling table ends in half a row, which shows that there is more
    height: Literal["content"] | int = (
        "content" if rows <= visible_rows else (visible_rows + 1) * ROW_PIXELS + ROW_PIXELS // 2
    )
    return st.dataframe(
        data,
        hide_index=True,
        height=height,
        row_height=ROW_PIXELS,
        alt=alt,
        column_config=shown,
        **options,
    )


def _unsign_zeros(
    table: pd.DataFrame | pa.Table, columns: Mapping[str, Any], *, missing: str
) -> tuple[Any, dict[str, Any]]:
    """Return a table and its columns so that a change of zero has no sign.

    The format of a column of numbers gives zero a plus. A column with a zero is written here instead; that
    takes ten times as long as a format, and leaves the numbers to sort by.
    """
    signed = {name: match for name, config in columns.items() if (match := _match_change(config))}
    names = table.column_names if isinstance(table, pa.Table) else table.columns
    places = {name: int(match["places"]) for name, match in signed.items() if name in names}
    with_zero = [name for name, count in places.items() if _has_zero(table, name, count)]
    if not with_zero:
        return table, dict(columns)
    frame = table.to_pandas() if isinstance(table, pa.Table) else table
    writers: dict[Any, Any] = {
        name: partial(format_change, places=places[name], unit=signed[name]["unit"].replace("%%", "%"))
        for name in with_zero
    }
    unformatted = {
        name: {**columns[name], "type_config": {**columns[name]["type_config"], "format": None}}
        for name in with_zero
    }
    return frame.style.format(writers, na_rep=missing), {**columns, **unformatted}


def _match_change(config: Any) -> re.Match[str] | None:
    """Return the parts of the format of a column of changes; None for any other column."""
    kind = (config.get("type_config") or {}) if isinstance(config, dict) else {}
    return _SIGNED.fullmatch(kind.get("format") or "") if kind.get("type") == "number" else None


def _has_zero(table: pd.DataFrame | pa.Table, name: str, places: int) -> bool:
    column = table.column(name).to_numpy() if isinstance(table, pa.Table) else table[name].to_numpy(float)
    return bool((np.round(column.astype(float), places) == 0).any())
