"""Streamlit elements that all pages share: metric cards, tables and their columns, collapsible sections."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st

from dashboard.formats import format_change

CARD_PIXELS = 155
"""Minimum width of a metric card, so that a phone shows two cards side by side."""

SCREEN_COOKIE = "echo-markets-screen"
"""Cookie with the width of the visitor's screen: `phone`, `tablet` or `desk`. `static/shell.js` sets it."""

SESSION_NOTE = (
    "A session is one UTC day. The session of today is open: its figures are “so far”. Earlier sessions are "
    "finished."
)

ROW_PIXELS = 38
VISIBLE_ROWS = 12

PROGRESS: dict[str, Any] = {"format": "%.0f%%", "min_value": 0, "max_value": 100}
MINUTES: dict[str, Any] = {"format": "YYYY-MM-DD HH:mm", "timezone": "UTC"}
"""Options of Streamlit columns: PROGRESS shows a percentage as a bar, MINUTES a time without seconds."""


class ChangeColumn(msgspec.Struct, frozen=True):
    """A column of `show_table` for changes: a number has a plus or minus sign, and zero has no sign."""

    label: str
    places: int = 2
    unit: str = ""
    help: str | None = None

    def configure(self, *, is_formatted: bool = True) -> Any:
        """Return the Streamlit configuration of this column.

        Set `is_formatted` to False if a pandas Styler formats the numbers of the column.
        """
        number_format = f"%+,.{self.places}f{self.unit.replace('%', '%%')}"
        return st.column_config.NumberColumn(
            self.label, help=self.help, format=number_format if is_formatted else None
        )

    def has_zero(self, numbers: np.ndarray) -> bool:
        """Return whether one of the numbers is zero when it is rounded to the decimals of this column."""
        return bool((np.round(numbers, self.places) == 0).any())

    def write(self, value: float) -> str:
        """Return a number as the column shows it: `+1.25%`."""
        return format_change(value, places=self.places, unit=self.unit)


def build_day_column(label: str, **options: Any) -> Any:
    """Return the Streamlit column for the date of a session or of another UTC day."""
    return st.column_config.DateColumn(label, format="YYYY-MM-DD", **options)


def build_count_column(label: str | None = None, **options: Any) -> Any:
    """Return the Streamlit column for whole numbers, such as numbers of players."""
    return st.column_config.NumberColumn(label, format="%,d", **options)


def link_player() -> Any:
    """Return the Streamlit column for links to players. Fill its cells with `build_player_link`."""
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
    """Show a metric card; `note` stands below the value.

    With `is_change`, the note is green for a gain and red for a loss; otherwise it is grey. `help` explains
    the value: what it counts, which period it covers, and how old it can be.
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


def show_collapsible(label: str, show: Callable[[], object], *, key: str) -> None:
    """Show a collapsible section of a page. `show` draws its content, and is called only while it is open."""
    part = st.expander(label, key=key, on_change="rerun")
    if part.open:
        with part:
            show()


def is_phone() -> bool:
    """Return whether the visitor's screen is as narrow as a phone's."""
    return _read_screen() == "phone"


def _read_screen() -> str:
    return str(st.context.cookies.get(SCREEN_COOKIE, "desk"))


def show_table(
    table: pd.DataFrame | pa.Table,
    columns: Mapping[str, Any],
    *,
    alt: str,
    visible_rows: int = VISIBLE_ROWS,
    on_phone: Sequence[str] | None = None,
    on_tablet: Sequence[str] | None = None,
    placeholder: str = "-",
    **options: Any,
) -> Any:
    """Show a table without its index, and return the selection of the visitor.

    A table with more than `visible_rows` rows scrolls. `on_phone` and `on_tablet` name the columns that fit
    on a screen of that width without scrolling sideways; None shows all columns. Cells without a value show
    the `placeholder`.
    """
    rows = table.num_rows if isinstance(table, pa.Table) else len(table)
    data, shown = _format_zeros(table, columns, missing=placeholder)
    # half a row at the lower edge of a scrolling table shows that more rows follow
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
        placeholder=placeholder,
        column_order={"phone": on_phone, "tablet": on_tablet}.get(_read_screen()),
        **options,
    )


def _format_zeros(
    table: pd.DataFrame | pa.Table, columns: Mapping[str, Any], *, missing: str
) -> tuple[Any, dict[str, Any]]:
    """Return the table and its Streamlit columns, changed so that a change of zero is shown without a sign.

    Streamlit's number format writes zero with a plus sign. A column with a zero is therefore formatted by a
    pandas Styler; the browser still sorts it by its numbers. A Styler takes ten times longer than a number
    format, so all other columns have a number format.
    """
    changes = {name: column for name, column in columns.items() if isinstance(column, ChangeColumn)}
    names = table.column_names if isinstance(table, pa.Table) else table.columns
    with_zero = [name for name in changes if name in names and changes[name].has_zero(_read(table, name))]
    configured = {
        name: column.configure(is_formatted=name not in with_zero) for name, column in changes.items()
    }
    if with_zero:
        frame = table.to_pandas() if isinstance(table, pa.Table) else table
        writers: dict[Any, Any] = {name: changes[name].write for name in with_zero}
        return frame.style.format(writers, na_rep=missing), {**columns, **configured}
    return table, {**columns, **configured}


def _read(table: pd.DataFrame | pa.Table, name: str) -> np.ndarray:
    if isinstance(table, pa.Table):
        return np.asarray(table.column(name).to_numpy(), float)
    return table[name].to_numpy(float)
