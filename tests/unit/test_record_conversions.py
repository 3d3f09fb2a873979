"""Conversion of records to dicts, data frames and JSON, and their use as response types of FastAPI."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from core import EnhancedDatabaseService, records
from core.errors import InvalidInput
from core.records import (
    Candle,
    LeaderboardSummary,
    PlayerQuest,
    PlayerScore,
    Portfolio,
    Quest,
    Record,
    ScoreBin,
    Sparkline,
    User,
    freeze,
)

to_frame, to_json = EnhancedDatabaseService.to_frame, EnhancedDatabaseService.to_json
ID = UUID("018f0000-0000-7000-8000-000000000001")
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
CASH, CENT = Decimal("10000.00"), Decimal("0.01")
PORTFOLIO = Portfolio(ID, ID, date(9999, 12, 31), CASH, CASH, CASH, CENT, CENT, NOON, NOON)
QUEST = Quest(ID, ID, "T", "Title", None, CASH, CENT, "ACTIVE", None, None, NOON, None)
USER = User(ID, "alice", None, None, None, freeze({"a": [1, {"b": 2}]}), NOON, NOON)
KINDS = [
    kind
    for name in records.__all__
    if isinstance(kind := getattr(records, name), type) and kind is not Record
]


def test_asdict_returns_a_copy() -> None:
    """`asdict` also copies nested records and documents; amounts, ids and times keep their types."""
    plain = PlayerQuest("alice", QUEST).asdict()
    assert plain["quest"]["target_value"] == CASH
    assert type(plain["quest"]["target_value"]) is Decimal
    assert (plain["quest"]["id"], plain["quest"]["created_at"]) == (ID, NOON)
    plain["quest"]["title"] = "changed"
    preferences = USER.asdict()["preferences"]
    assert type(preferences) is dict
    preferences["a"] = None
    assert USER.preferences == {"a": (1, {"b": 2})}


def test_a_record_is_unpacked_like_a_mapping() -> None:
    """`dict(record)` and `{**record}` have the fields in their order; other keys raise KeyError."""
    assert list(dict(PORTFOLIO)) == list(PORTFOLIO.keys()) == list(Portfolio.__struct_fields__)
    assert {**PORTFOLIO}["day_change"] == PORTFOLIO["day_change"] == CENT
    for name in ("asdict", "nothing"):
        with pytest.raises(KeyError):
            PORTFOLIO[name]


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_has_all_conversions(kind: type[Record]) -> None:
    """Each public record type has a JSON schema and a data frame; no field hides a conversion method."""
    assert issubclass(kind, Record)
    assert not {"asdict", "keys"} & set(kind.__struct_fields__)
    assert TypeAdapter(kind).json_schema(mode="serialization")["type"] == "object"
    assert list(to_frame((), kind=kind).columns)


# -- data frames ------------------------------------------------------------------------


def test_a_data_frame_has_a_column_for_each_field() -> None:
    """Each field is a column of the matching dtype, with the values of the records."""
    frame = to_frame([PORTFOLIO] * 3)
    assert list(frame.columns) == list(Portfolio.__struct_fields__)
    assert frame.dtypes["total_value"] == np.float64
    assert str(frame.dtypes["created_at"]) == "datetime64[us, UTC]"
    assert str(frame.dtypes["session_date"]) == "datetime64[us]"
    assert frame.total_value.sum() == 30_000
    assert frame.created_at[0] == pd.Timestamp(NOON)
    assert frame.session_date[0].date() == date(9999, 12, 31)
    assert (frame.user_id == ID).all()


def test_amounts_can_stay_exact() -> None:
    """With `exact=True`, the amounts in a data frame are `Decimal` objects, and their sum is exact."""
    frame = to_frame([PORTFOLIO] * 3, exact=True)
    assert frame.day_change.sum() == Decimal("0.03")
    assert type(frame.day_change[0]) is Decimal


def test_missing_values_keep_the_dtype() -> None:
    """Missing times are NaT and missing amounts NaN; integers with a missing value are Int64, not float."""
    quests = to_frame([QUEST])
    assert pd.isna(quests.expires_at[0])
    assert str(quests.dtypes["expires_at"]) == "datetime64[us, UTC]"
    assert np.isnan(quests.reward_value[0])
    assert pd.isna(quests.description[0])
    scores = to_frame(
        [PlayerScore(ID, NOON.date(), CASH, None), PlayerScore(ID, NOON.date(), CASH, 2**53 + 1)]
    )
    assert str(scores.dtypes["rank"]) == "Int64"
    assert scores["rank"][1] == 2**53 + 1


def test_nested_records_become_columns() -> None:
    """The fields of a nested record become columns such as `quest.id`; a list of records becomes dicts."""
    frame = to_frame([PlayerQuest("alice", QUEST)])
    assert list(frame.columns[:3]) == ["username", "quest.id", "quest.user_id"]
    assert frame["quest.target_value"][0] == 10_000
    assert to_frame([USER]).preferences[0] == {"a": (1, {"b": 2})}
    summary = LeaderboardSummary(
        NOON.date(), "c", 1, "alice", 1, CASH, CASH, CASH, (ScoreBin(CENT, CASH, 1),)
    )
    assert to_frame([summary]).bins[0][0]["players"] == 1
    assert to_frame([Sparkline("A", (NOON,), (CASH,))]).prices[0] == (CASH,)


def test_a_volume_of_more_than_64_bits_stays_exact() -> None:
    """A candle's volume above 64 bits, which is possible for a sum, stays an exact integer."""
    candle = Candle("A", NOON, CASH, CASH, CASH, CASH, 3 * 2**63, 1)
    assert to_frame([candle]).volume[0] == 3 * 2**63
    assert to_frame([msgspec.structs.replace(candle, volume=5)]).dtypes["volume"] == np.int64


def test_no_records_give_an_empty_frame() -> None:
    """An empty frame has the columns and dtypes of `kind`."""
    assert to_frame([]).empty
    frame = to_frame((), kind=Portfolio)
    assert list(frame.columns) == list(Portfolio.__struct_fields__)
    assert str(frame.dtypes["created_at"]) == "datetime64[us, UTC]"
    assert frame[frame.total_value > 0].empty


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([PORTFOLIO, QUEST], {}, "records is a list of Portfolio and Quest"),
        ([QUEST], {"kind": Portfolio}, "records is a list of Portfolio and Quest"),
        ([{"a": 1}], {}, "record 0 is {'a': 1}"),
        (PORTFOLIO, {}, "records is Portfolio"),
        ([], {"kind": dict}, "kind is"),
        ([], {"exact": 1}, "exact is 1"),
    ],
)
def test_invalid_records_are_refused(values: Any, options: dict[str, Any], message: str) -> None:
    """`to_frame` refuses mixed records and values that are no records; the error has the value."""
    with pytest.raises(InvalidInput, match=message):
        to_frame(values, **options)


# -- JSON -------------------------------------------------------------------------------


def test_json_keeps_every_digit() -> None:
    """In JSON, amounts and ids are texts and times end in Z; None and several records are accepted too."""
    body = Response(to_json(PORTFOLIO), media_type="application/json").body
    plain = json.loads(bytes(body))
    assert plain["total_value"] == "10000.00"
    assert plain["user_id"] == str(ID)
    assert plain["created_at"] == "2026-03-02T12:00:00Z"
    assert json.loads(to_json(iter([QUEST, QUEST])))[1]["title"] == "Title"
    assert to_json(None) == b"null"
    assert to_json(()) == b"[]"
    assert msgspec.json.decode(to_json(PORTFOLIO), type=Portfolio) == PORTFOLIO
    with pytest.raises(InvalidInput, match="record 0 is 5"):
        to_json([5])  # type: ignore[list-item]  # the test passes a wrong type


def test_pydantic_validates_and_writes_records() -> None:
    """Pydantic, which FastAPI uses, validates records and writes them as JSON."""
    adapter = TypeAdapter(tuple[PlayerQuest, ...])
    answer = (PlayerQuest("alice", QUEST),)
    assert adapter.validate_python(answer) == answer
    written = adapter.dump_json(answer)
    assert json.loads(written)[0]["quest"]["target_value"] == "10000.00"
    assert adapter.validate_json(written) == answer
    assert json.loads(TypeAdapter(User).dump_json(USER))["preferences"] == {"a": [1, {"b": 2}]}
    assert TypeAdapter(dict[str, Any]).dump_json(QUEST.asdict()).startswith(b'{"id":"018f')
    with pytest.raises(ValidationError):
        adapter.validate_json('[{"username": "alice"}]')


def test_an_endpoint_may_return_records() -> None:
    """FastAPI endpoints can return records, with or without a response type, as a list, a dict or JSON."""
    app = FastAPI()
    answer = PlayerQuest("alice", QUEST)

    @app.get("/typed")
    def read_typed() -> PlayerQuest:
        return answer

    @app.get("/list")
    def read_list() -> list[PlayerQuest]:
        return [answer]

    @app.get("/optional")
    def read_optional() -> Portfolio | None:
        return None

    @app.get("/untyped", response_model=None)
    def read_untyped() -> PlayerQuest:
        return answer

    @app.get("/dict")
    def read_dict() -> dict[str, Any]:
        return answer.asdict()

    @app.get("/json")
    def read_json() -> Response:
        return Response(to_json(answer), media_type="application/json")

    with TestClient(app) as client:
        typed = client.get("/typed").json()
        assert typed["quest"]["target_value"] == "10000.00"
        assert client.get("/list").json() == [typed]
        assert client.get("/optional").json() is None
        assert client.get("/untyped").json()["quest"]["title"] == "Title"
        assert client.get("/dict").json() == client.get("/json").json() == typed
        assert "target_value" in client.get("/openapi.json").text
