"""Parses columns of text into numbers, dates and times of day.

Owns the known date formats and the two decimal marks. Does not depend on files or on the meaning of a column.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.simulation.amounts import Floats, Integers

Mask = NDArray[np.bool_]

MISSING: Final = (
    "(?i)^(?:|-+|[\u2013\u2014?*.]"  # \u2013 and \u2014 are the en dash and the em dash
    r"|#?n/?a|n\.a\.?|nan|null|nil|none|nul|missing|suspended)$"
)
_MONEY: Final = r"^(?:[$€£¥₹]|US\$|HK\$|Rs\.?)\s*|\s*(?:[$€£¥₹]|USD|EUR|GBP)$"
_SPACES: Final = "[\\s\u00a0\u202f'\u2019]"
_VALID: Final = {
    mark: rf"^[+-]?(?:\d+|\d{{1,3}}(?:(?:{group}|{_SPACES})\d{{2,3}})*(?:{group}|{_SPACES})\d{{3}}|)"
    rf"(?:\{mark}\d*)?(?:[eE][+-]?\d+)?$"
    for mark, group in ((".", ","), (",", r"\."))
}
_SUFFIXES: Final = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}

EPOCH_DAY: Final = 719_163  # day 0 of Unix time: date(1970, 1, 1).toordinal()
_EXCEL_ZERO: Final = 693_594  # day 0 of Excel: date(1899, 12, 30).toordinal()
_DAY_SECONDS: Final = 86_400
_MONTHS: Final = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10,
    "nov": 11, "dec": 12, "mär": 3, "mrz": 3, "mai": 5, "okt": 10, "dez": 12, "fév": 2, "fev": 2, "avr": 4,
    "aoû": 8, "déc": 12, "ene": 1, "abr": 4, "ago": 8, "dic": 12, "set": 9, "out": 10, "gen": 1, "mag": 5,
    "giu": 6, "lug": 7, "ott": 10,
}  # fmt: skip  # with one month per line, this would fill a page
_TIME: Final = (
    r"(?:[T\s,]+(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,]\d+)?)?\s*(?P<p>[AaPp]\.?[Mm]\.?)?)?"
    r"\s*(?P<z>Z|UTC|GMT|[+-]\d{2}:?\d{2})?$"
)
_WEEKDAY: Final = r"^(?:[A-Za-zÀ-ÿ]{2,9}\.?,?\s+)?"
_YEAR: Final = r"(?P<y>\d{4}|\d{2})"
_MONTH: Final = r"(?P<b>[A-Za-zÀ-ÿ]{3,10})\.?"
_FORMS: Final = {
    "YYYY-MM-DD": rf"^(?P<y>\d{{4}})[-/.](?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}}){_TIME}",
    "YYYYMMDD": r"^(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)(?:\.0)?"
    r"(?:[T\s;]*(?P<H>\d\d):?(?P<M>\d\d)(?::?(?P<S>\d\d))?)?(?P<z>Z)?$",
    "MM/DD/YYYY": rf"{_WEEKDAY}(?P<m>\d{{1,2}})[-/. ](?P<d>\d{{1,2}})[-/. ]{_YEAR}{_TIME}",
    "DD/MM/YYYY": rf"{_WEEKDAY}(?P<d>\d{{1,2}})[-/. ](?P<m>\d{{1,2}})[-/. ]{_YEAR}{_TIME}",
    "YY/MM/DD": rf"^(?P<y>\d\d)[-/. ](?P<m>\d{{1,2}})[-/. ](?P<d>\d{{1,2}}){_TIME}",
    "DD Mon YYYY": rf"{_WEEKDAY}(?P<d>\d{{1,2}})(?:st|nd|rd|th|\.)?[-/, ]*{_MONTH}[-/, ]*{_YEAR}{_TIME}",
    "Mon DD, YYYY": rf"{_WEEKDAY}{_MONTH}[-/ ]*(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[-/, ]+{_YEAR}{_TIME}",
    "YYYY Mon DD": rf"^(?P<y>\d{{4}})[-/ ]*{_MONTH}[-/ ]*(?P<d>\d{{1,2}}){_TIME}",
    "Unix time": r"^(?P<u>\d{9,19})(?:\.\d*)?$",
    "Excel day": r"^(?P<x>[2-5]\d{4}(?:\.\d*)?)$",
}
_RATIO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?::|/|-?\s?for\s?-?)\s*(\d+(?:\.\d+)?)")
DATE_FORMS: Final = tuple(_FORMS)
_TRIED: Final = 5
_TIMES: Final = r"^(?P<H>\d{1,2}):?(?P<M>\d{2})(?::?(?P<S>\d{2})(?:[.,]\d+)?)?\s*(?P<p>[AaPp]\.?[Mm]\.?)?$"


def to_array(column: Any, missing: Any = 0) -> NDArray[Any]:
    """Convert a pyarrow column of numbers or booleans to a NumPy array, with `missing` instead of nulls.

    pyarrow's own conversions are not used: they import pandas, which costs half a second and 45 MB.
    """
    if pa.types.is_boolean(column.type):
        return to_array(pc.cast(column, pa.uint8()), missing).astype(np.bool_)
    if not column.null_count:
        return np.from_dlpack(column)
    buffers = [None, column.buffers()[1]]
    values = np.from_dlpack(pa.Array.from_buffers(column.type, len(column), buffers, offset=column.offset))
    return np.where(to_array(pc.is_valid(column)), values, missing)


def to_column(texts: Iterable[str]) -> Any:
    """Convert texts to a pyarrow column."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


_EMPTY, _ZERO, _NAN = to_column(["", "0", "nan"])


def equals(texts: Any, text: str) -> Mask:
    """Return a mask of the texts in a column that equal `text`."""
    return np.asarray(to_array(pc.equal(texts, to_column([text])[0])), np.bool_)


def matches(texts: Any, pattern: str) -> Mask:
    """Return a mask of the texts in a column that contain a match of a regular expression."""
    return np.asarray(to_array(pc.match_substring_regex(texts, pattern)), np.bool_)


def parse_numbers(texts: Any, decimal: str, *, suffixes: bool = False) -> tuple[Floats, Mask]:
    """Parse a column of numbers; return an array, with NaN for other texts, and a mask of the empty cells.

    `decimal` is the decimal mark. With ".", commas are thousands separators; with ",", points are. Spaces and
    apostrophes are always thousands separators. Texts such as `-`, `N/A` and `null` count as empty. With
    `suffixes`, 45.21M is 45,210,000.
    """
    try:
        values = to_array(pc.cast(texts, pa.float64()))
        if decimal == "." or not matches(texts, r"\.").any():
            return values, np.isnan(values)
    except pa.ArrowInvalid:
        pass
    plain = pc.replace_substring_regex(texts, "^[\\s\u00a0]+|[\\s\u00a0]+$", "")
    missing = pc.match_substring_regex(plain, MISSING)
    plain = pc.replace_substring_regex(plain, _MONEY, "")
    factor = np.ones(len(texts))
    if suffixes:
        letter = pc.ascii_upper(pc.utf8_slice_codeunits(plain, -1))
        known = to_array(pc.index_in(letter, value_set=to_column(_SUFFIXES)), -1)
        factor = np.array([*_SUFFIXES.values(), 1.0])[known]
        plain = pc.replace_substring_regex(plain, r"\s*[KMBTkmbt]$", "")
    valid = pc.and_(pc.match_substring_regex(plain, _VALID[decimal]), pc.match_substring_regex(plain, r"\d"))
    plain = pc.replace_substring_regex(plain, rf"{_SPACES}|{'[.]' if decimal == ',' else ','}", "")
    plain = pc.replace_substring(plain, decimal, ".")
    numbers = to_array(pc.cast(pc.if_else(valid, plain, _NAN), pa.float64()))
    return numbers * factor, to_array(missing)


def parse_ratio(text: str) -> float:
    """Parse the ratio of a split: 4 for "4", "4.0", "4:1" and "4-for-1". Other texts give 1."""
    if found := _RATIO.fullmatch(text):
        return float(found[1]) / float(found[2]) if float(found[2]) else 1.0
    try:
        return float(text)
    except ValueError:
        return 1.0


def find_decimal(texts: Sequence[str], *, is_european: bool = False) -> str | None:
    """Return the decimal mark of these numbers, "." or ",", or None when both are possible.

    For example, both are possible if the only number is 1,234. With `is_european`, for files that separate
    columns by semicolons, both are also possible if the only number is 1.234.
    """
    # search one text with all cells: a search in each of several hundred cells would be slow
    numbers = re.sub(r"[$€£¥₹% \tKMBTkmbt]|USD|EUR", "", "\n".join(texts))
    comma = re.search(r",(\d{1,2}|\d{4,})$|^[+-]?0,|\.\d{3},|(\.\d{3}){2}", numbers, re.MULTILINE)
    point = re.search(
        r"\.(\d{1,2}|\d{4,})$|^[+-]?0?\.|,\d{3}\.|(,\d{2,3}){2}|^\d+\.\d+e", numbers, re.MULTILINE
    )
    if bool(comma) != bool(point):
        return "," if comma else "."
    three = r"\d[.,]\d{3}$" if is_european else r"\d,\d{3}$"
    return None if comma or re.search(three, numbers, re.MULTILINE) else "."


@dataclass(frozen=True)
class Moments:
    """The dates and times of many rows.

    `days` are values of `date.toordinal()`, or 0 for no date. `seconds` are seconds since midnight. `offsets`
    are UTC offsets in seconds, positive east of UTC, or NaN if the text has no time zone.
    """

    days: NDArray[np.int32]
    seconds: NDArray[np.int32]
    offsets: Floats

    def __getitem__(self, places: Any) -> "Moments":
        return Moments(self.days[places], self.seconds[places], self.offsets[places])

    def move_to(self, zone: ZoneInfo) -> "Moments":
        """Convert to the dates and times of another time zone. The day is 0 if the UTC offset is unknown."""
        moments = (self.days.astype(np.int64) - EPOCH_DAY) * _DAY_SECONDS + self.seconds - self.offsets
        known = (self.days > 0) & ~np.isnan(moments)
        unique, places = np.unique(moments[known], return_inverse=True)
        shifts = [
            (datetime.fromtimestamp(moment, zone).utcoffset() or UTC.utcoffset(None)).total_seconds()
            for moment in unique.tolist()
        ]
        local = (unique + np.array(shifts)).astype(np.int64)[places]
        days, seconds = np.zeros_like(self.days), np.zeros_like(self.seconds)
        days[known] = local // _DAY_SECONDS + EPOCH_DAY
        seconds[known] = local % _DAY_SECONDS
        return Moments(days, seconds, self.offsets)


def find_date_forms(texts: Sequence[str], *, min_share: float = 0.5) -> list[str]:
    """Return the date format that fits the most texts, or several formats if they fit the same texts.

    Returns an empty list if the share of texts that fit is smaller than `min_share`.
    """
    counts = Counter(text.strip() for text in texts)
    unique = list(counts)
    # exclude formats by regular expression first: parsing the texts in one format takes over a millisecond
    likely = [form for form in _FORMS if any(re.match(_FORMS[form], text) for text in unique[:_TRIED])]
    are_days = {form: parse_days(to_column(unique), form).days > 0 for form in likely}
    weights = np.array(list(counts.values()))
    best = max(are_days, key=lambda form: int(weights[are_days[form]].sum()), default=None)
    if best is None or not are_days[best].any() or weights[are_days[best]].sum() < min_share * weights.sum():
        return []
    found = [form for form in likely if (are_days[form] == are_days[best]).all()]
    # prefer a calendar date: 20240304 is 4 March 2024 rather than a Unix time
    return [form for form in found if form not in {"Unix time", "Excel day"}] or found


def parse_days(texts: Any, form: str) -> Moments:
    """Parse a column of trimmed texts as dates, with the time and the time zone if the texts have them.

    `form` is one of DATE_FORMS, or a format for `strptime` such as %d.%m.%Y.
    """
    if "%" in form:
        return _parse_with_strptime(texts, form)
    fields, matched = _extract(texts, _FORMS[form])
    if "u" in fields:
        moments = _to_floats(fields["u"])
        moments /= 1000.0 ** np.clip((np.log10(np.maximum(moments, 1)).astype(int) - 8) // 3, 0, 3)
        return _from_seconds(moments, matched, offset=0.0)
    if "x" in fields:
        days = np.round(_to_floats(fields["x"]) * _DAY_SECONDS) - (EPOCH_DAY - _EXCEL_ZERO) * _DAY_SECONDS
        return _from_seconds(days, matched, offset=float("nan"))
    year, day = _to_ints(fields["y"]), _to_ints(fields["d"])
    year = np.where(to_array(pc.utf8_length(fields["y"])) > 2, year, year + np.where(year < 70, 2000, 1900))
    month = _to_months(fields["b"]) if "b" in fields else _to_ints(fields["m"])
    month_start = (year - 1970).astype("M8[Y]").astype("M8[M]") + (month - 1)
    dates = month_start.astype("M8[D]") + (day - 1)
    seconds, is_time = _to_seconds(fields)
    is_day = (
        (month >= 1) & (month <= 12) & (day >= 1) & (dates.astype("M8[M]") == month_start) & matched & is_time
    )
    days = np.where(is_day, dates.astype(np.int64) + EPOCH_DAY, 0).clip(min=0)
    return Moments(days.astype(np.int32), seconds, _to_offsets(fields["z"]))


def parse_times(texts: Any) -> tuple[NDArray[np.int32], Mask]:
    """Parse a column of trimmed times of day; return seconds since midnight, and a mask of valid times."""
    # add missing leading zeros: 0 becomes 000000, and 93000 becomes 093000; 930 (09:30) is not changed
    padded = pc.replace_substring_regex(texts, r"^(\d{1,2}|\d{5})$", r"00000\1")
    is_padded = pc.match_substring_regex(texts, r"^(\d{1,2}|\d{5})$")
    texts = pc.if_else(is_padded, pc.utf8_slice_codeunits(padded, -6), texts)
    fields, matched = _extract(texts, _TIMES)
    seconds, is_time = _to_seconds(fields)
    return seconds, is_time & matched


def _extract(texts: Any, pattern: str) -> tuple[dict[str, Any], Mask]:
    groups = pc.extract_regex(texts, pattern)
    fields = {field.name: column for field, column in zip(groups.type, groups.flatten(), strict=True)}
    return fields, to_array(pc.is_valid(groups))


def _to_seconds(fields: dict[str, Any]) -> tuple[NDArray[np.int32], Mask]:
    hours, minutes, seconds = (_to_ints(fields[name]) for name in "HMS")
    if "p" in fields:
        half = pc.ascii_lower(pc.utf8_slice_codeunits(fields["p"], 0, 1))
        is_pm, is_am = equals(half, "p"), equals(half, "a")
        hours = np.where(is_pm & (hours < 12), hours + 12, np.where(is_am & (hours == 12), 0, hours))
    is_time = (hours < 24) & (minutes < 60) & (seconds < 60)
    return (hours * 3600 + minutes * 60 + seconds).astype(np.int32), is_time


def _to_months(texts: Any) -> Integers:
    names = pc.utf8_slice_codeunits(pc.ascii_lower(texts), 0, 3)
    places = to_array(pc.index_in(names, value_set=to_column(_MONTHS)), -1)
    return np.asarray(np.array([*_MONTHS.values(), 0])[places], np.int64)


def _to_offsets(texts: Any) -> Floats:
    """Return UTC offsets in seconds, positive east of UTC, and NaN for an empty text."""
    unique = pc.dictionary_encode(pc.coalesce(texts, _EMPTY))
    known = [_parse_offset(text) for text in unique.dictionary.to_pylist()]
    return np.asarray(np.array(known)[to_array(unique.indices)], np.float64)


def _parse_offset(text: str) -> float:
    if found := re.fullmatch(r"([+-])(\d\d):?(\d\d)", text):
        return float(f"{found[1]}1") * (int(found[2]) * 3600 + int(found[3]) * 60)
    return 0.0 if text else float("nan")


def _from_seconds(moments: Floats, matched: Mask, *, offset: float) -> Moments:
    whole = np.floor(np.where(matched, moments, 0)).astype(np.int64)
    days = np.where(matched, whole // _DAY_SECONDS + EPOCH_DAY, 0)
    seconds = (whole % _DAY_SECONDS).astype(np.int32)
    return Moments(days.astype(np.int32), seconds, np.full(len(moments), offset))


def _parse_with_strptime(texts: Any, form: str) -> Moments:
    found = [_strptime(text, form) for text in texts.to_pylist()]
    days, seconds, offsets = np.array(found, np.float64).reshape(-1, 3).T
    return Moments(days.astype(np.int32), seconds.astype(np.int32), offsets)


def _strptime(text: str, form: str) -> tuple[float, float, float]:
    try:
        time = datetime.strptime(text, form)  # noqa: DTZ007  # the day is used as written, in any time zone
    except ValueError:
        return 0, 0, float("nan")
    offset = time.utcoffset()
    seconds = time.hour * 3600 + time.minute * 60 + time.second
    return time.toordinal(), seconds, float("nan") if offset is None else offset.total_seconds()


def _to_ints(texts: Any) -> Integers:
    filled = pc.coalesce(pc.if_else(pc.equal(texts, _EMPTY), _ZERO, texts), _ZERO)
    return np.asarray(to_array(pc.cast(filled, pa.int64())), np.int64)


def _to_floats(texts: Any) -> Floats:
    return np.array(to_array(pc.cast(pc.coalesce(texts, _ZERO), pa.float64())), np.float64)
