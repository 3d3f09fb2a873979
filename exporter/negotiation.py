"""Which text format a scrape gets, whether compressed, and how long it may take: what its headers ask for."""

import math
from collections.abc import Mapping

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

from exporter.exposition import Scrape

OPEN_METRICS = "application/openmetrics-text"
PLAIN_TEXT = "text/plain"
ENCODINGS = ("gzip", "x-gzip", "*")
"""What means gzip, the most specific first (RFC 9110, 8.4.1.3 and 12.5.3)."""
TIMEOUT_HEADER = "x-prometheus-scrape-timeout-seconds"
# Prometheus's own default, for who does not say.
DEFAULT_TIMEOUT_SECONDS = 10.0
# What the way to Prometheus and the writing of the text take.
MARGIN_SECONDS = 0.5
SHORTEST_SECONDS = 0.1
LONGEST_SECONDS = 60.0


def negotiate(headers: Mapping[str, str]) -> tuple[Scrape, str]:
    """Return how to scrape for these headers, and the content type of the answer.

    OpenMetrics 1.0 when it is accepted and not liked less than plain text, else version 0.0.4.
    """
    seconds = _find_seconds(headers.get(TIMEOUT_HEADER, ""))
    liked = _parse_qualities(headers.get("accept", ""))
    if liked.get(OPEN_METRICS, 0.0) > 0 and liked[OPEN_METRICS] >= liked.get(PLAIN_TEXT, 0.0):
        return Scrape(seconds, openmetrics.generate_latest), openmetrics.CONTENT_TYPE_LATEST
    return Scrape(seconds, generate_latest), CONTENT_TYPE_PLAIN_0_0_4


def accepts_gzip(headers: Mapping[str, str]) -> bool:
    """Say whether the answer may be compressed, and is not rather wanted as it is."""
    liked = _parse_qualities(headers.get("accept-encoding", ""))
    quality = next((liked[name] for name in ENCODINGS if name in liked), 0.0)
    return quality > 0 and quality >= liked.get("identity", 0.0)


def _find_seconds(value: str) -> float:
    timeout = _parse_number(value, DEFAULT_TIMEOUT_SECONDS)
    return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, timeout - MARGIN_SECONDS))


def _parse_qualities(header: str) -> dict[str, float]:
    """Return the quality of each media type or encoding, but for versions that cannot be served."""
    liked: dict[str, float] = {}
    for item in header.split(","):
        name, *parts = (part.strip() for part in item.lower().split(";"))
        parameters = dict(part.split("=", 1) for part in parts if "=" in part)
        version = parameters.get("version", "1.").strip('"')
        if name == OPEN_METRICS and not version.startswith("1."):
            continue
        quality = _parse_number(parameters.get("q", ""), 1.0)
        liked[name] = max(quality, liked.get(name, 0.0))
    return liked


def _parse_number(text: str, default: float) -> float:
    try:
        number = float(text)
    except ValueError:
        return default
    return number if math.isfinite(number) else default
