"""A small client for Prometheus's HTTP API.

Every call has a timeout, and raises `FetchFailed` if Prometheus does not answer as its API specifies.

API: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from prometheus_client.samples import Sample

from core.http_client import FetchFailed, fetch
from core.metrics.scrape import Scrape
from dashboard.monitoring.alerts import Alert, sort_alerts
from dashboard.monitoring.queries import Key, Series, Values

TIMEOUT_SECONDS = 3.0


class Prometheus:
    """A client of one Prometheus server. Thread safe, keeps no connection open."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds

    def read_scrape(self, selector: str) -> Scrape:
        """Return the current samples that match a selector, as if they came from one scrape."""
        samples = []
        for item in self._query("query", query=selector):
            labels = dict(item["metric"])
            samples.append(Sample(labels.pop("__name__", ""), labels, float(item["value"][1])))
        return Scrape(samples, taken_at=datetime.now(UTC))

    def read_values(self, promql: str, by: tuple[str, ...]) -> Values:
        """Return the current values of a query, grouped by the labels `by`.

        Values that are NaN are left out.
        """
        return {
            _key(item, by): value
            for item in self._query("query", query=promql)
            if not math.isnan(value := float(item["value"][1]))
        }

    def read_series(
        self, promql: str, by: tuple[str, ...], *, start: datetime, end: datetime, step_seconds: int
    ) -> tuple[Series, ...]:
        """Return the values of a query from `start` to `end`: one series per set of values of labels `by`."""
        found = self._query(
            "query_range",
            query=promql,
            start=f"{start.timestamp():.3f}",
            end=f"{end.timestamp():.3f}",
            step=f"{step_seconds}",
        )
        return tuple(Series(_key(item, by), tuple(_points(item["values"]))) for item in found)

    def list_alerts(self) -> tuple[Alert, ...]:
        """Return the active alerts in the order of `sort_alerts`."""
        try:
            return sort_alerts(_build_alert(item) for item in self._get("alerts")["alerts"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FetchFailed("its answer has an unknown form") from error

    def _query(self, path: str, **parameters: str) -> Any:
        return self._get(path, **parameters)["result"]

    def _get(self, path: str, **parameters: str) -> Any:
        query = f"?{urlencode(parameters)}" if parameters else ""
        answer = fetch(f"{self._url}/api/v1/{path}{query}", timeout_seconds=self._timeout_seconds)
        if answer.status != 200:
            raise FetchFailed(f"the answer was HTTP {answer.status}")
        try:
            document = msgspec.json.decode(answer.body)
            return document["data"]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise FetchFailed("the answer is not one of Prometheus") from error


def _key(item: Any, by: tuple[str, ...]) -> Key:
    return tuple(item["metric"].get(label, "") for label in by)


def _points(values: Any) -> Iterator[tuple[datetime, float]]:
    for seconds, text in values:
        value = float(text)
        if not math.isnan(value):
            yield datetime.fromtimestamp(seconds, UTC), value


def _build_alert(item: Any) -> Alert:
    labels, annotations = item.get("labels", {}), item.get("annotations", {})
    since = item.get("activeAt")
    return Alert(
        rule=labels.get("alertname", "unnamed"),
        severity=labels.get("severity", "warning"),
        state="pending" if item.get("state") == "pending" else "firing",
        summary=annotations.get("summary") or annotations.get("description") or "",
        since=datetime.fromisoformat(since[:19]).replace(tzinfo=UTC) if since else None,
    )
