"""Tables of the pages: the signs of changes, and the columns for each screen size."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import streamlit as st

from dashboard.elements import SCREEN_COOKIE, ChangeColumn, show_table


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """Return a list to which each table given to Streamlit is added, with its column configuration."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(
        st, "dataframe", lambda data, *, column_config, **_: calls.append((data, column_config))
    )
    return calls


def list_texts(data: Any, column: int) -> list[str]:
    """Return the displayed texts of one column of a styled table."""
    rows: list[list[dict[str, Any]]] = data._translate(sparse_index=False, sparse_cols=False)["body"]
    return [[cell for cell in row if cell["type"] == "td"][column]["display_value"] for row in rows]


COLUMNS = {
    "name": "Name",
    "change": ChangeColumn("Change", unit="%"),
    "gain": ChangeColumn("Gain ($)"),
}


@pytest.mark.parametrize("is_arrow", [False, True])
def test_a_change_of_zero_has_no_sign_in_a_table(
    shown: list[tuple[Any, dict[str, Any]]],
    is_arrow: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    """A change that is zero or rounds to zero has no sign, and the column stays numeric for sorting."""
    frame = pd.DataFrame(
        {
            "name": ["a", "b", "c", "d", "e"],
            "change": [1.5, -0.001, 0.0, None, -1234.5],
            "gain": [1.0, 2.0, 3.0, 4.0, -5.0],
        }
    )
    table = pa.Table.from_pandas(frame, preserve_index=False) if is_arrow else frame
    show_table(table, COLUMNS, alt="Changes", placeholder="-")
    [(data, columns)] = shown
    assert list_texts(data, 1) == ["+1.50%", "0.00%", "0.00%", "-", "-1,234.50%"]
    assert columns["change"]["type_config"]["format"] is None
    assert columns["gain"]["type_config"]["format"] == "%+,.2f"
    assert data.data["change"].dtype == float


def test_a_table_without_a_zero_is_formatted_by_the_browser(
    shown: list[tuple[Any, dict[str, Any]]],
) -> None:
    """If no change is zero, the browser formats the cells, at a tenth of the server's cost."""
    frame = pd.DataFrame({"name": ["a"], "change": [0.01], "gain": [-0.01]})
    show_table(frame, COLUMNS, alt="Changes")
    [(data, columns)] = shown
    assert data is frame
    assert columns["change"]["type_config"]["format"] == "%+,.2f%%"
    assert columns["gain"]["type_config"]["format"] == "%+,.2f"
    assert columns["name"] == "Name"


@pytest.mark.parametrize(
    ("screen", "columns"),
    [("phone", ("name",)), ("tablet", ("name", "gain")), ("desk", None), ("", None), ("unknown", None)],
)
def test_the_columns_shown_fit_the_screen(
    monkeypatch: pytest.MonkeyPatch, screen: str, columns: tuple[str, ...] | None
) -> None:
    """The screen named in the browser's cookie chooses the columns; an unknown screen shows all columns."""
    orders: list[Any] = []
    cookies = {SCREEN_COOKIE: screen} if screen else {}
    monkeypatch.setattr(st, "context", SimpleNamespace(cookies=cookies))
    monkeypatch.setattr(st, "dataframe", lambda _, *, column_order, **__: orders.append(column_order))
    frame = pd.DataFrame({"name": ["a"], "change": [0.01], "gain": [-0.01]})
    show_table(frame, COLUMNS, alt="Changes", on_phone=("name",), on_tablet=("name", "gain"))
    assert orders == [columns]
