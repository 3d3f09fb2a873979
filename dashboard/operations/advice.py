"""What to do when a panel looks bad, in one sentence, and where there is more.

Owns the sentences and reading the sections of `docs/troubleshooting.md`, which the dashboard
shows on a page of its own, so that it is at hand where no repository is.
"""

import re
from pathlib import Path
from typing import Literal

import msgspec

from core.resources import TROUBLESHOOTING

Topic = Literal["health", "alerts", "pool", "cache", "latency", "statements", "size", "redis", "migrations"]

PAGE = "troubleshooting"

ADVICE: dict[Topic, str] = {
    "health": "Not healthy: `make status` shows what does not run, `make up` starts it.",
    "alerts": "Each alert leads to what helps; what fires for long is worth a look at the logs first.",
    "pool": "Waiting above 0 for long: find what holds connections, then raise `DATABASE_CONNECTION_LIMIT`.",
    "cache": "A strip that turns amber with traffic: look for writes in bursts or a Redis that evicts.",
    "latency": "p99 above 100 ms for long: see which operation below is slow, then its statements.",
    "statements": "One statement far ahead of all: `EXPLAIN` it, and look for a missing index.",
    "size": "A table that outgrows the others: drop old months with `echo-markets maintain --keep-days`.",
    "redis": "Near its limit with many evictions: raise `maxmemory`. Down: calls go on, slower.",
    "migrations": "Pending: `make migrate` brings the schema up; `echo-markets migrate status` lists them.",
}


SECTIONS: dict[str, str] = {
    "health": "echodatabasedown",
    "alerts": "troubleshooting",
    "pool": "echopoolnearlyexhausted",
    "cache": "echocachehitratiolow",
    "latency": "echolatencybudgetburnsfast",
    "statements": "slow-statements",
    "size": "large-tables-and-unused-indexes",
    "redis": "echoredisdown",
    "migrations": "echomigrationspending",
}
"""The section of the document for each topic; an alert names its own."""


class Section(msgspec.Struct, frozen=True):
    """A part of the troubleshooting page; `anchor` is what a link names."""

    anchor: str
    title: str
    text: str


def build_link(topic: str) -> str:
    """Return the address of a topic's or an alert's section, relative to a page of the dashboard."""
    return f"{PAGE}#{SECTIONS.get(topic, topic)}"


def build_advice(topic: Topic) -> str:
    """Return a panel's sentence with its link, in Markdown."""
    return f"{ADVICE[topic]} [More]({build_link(topic)})"


def read_sections(document: Path = TROUBLESHOOTING) -> tuple[Section, ...]:
    """Return the document's introduction and its sections, one per heading of the second level."""
    try:
        text = document.read_text(encoding="utf-8")
    except OSError:
        return ()
    parts = re.split(r"^##? +(.+)$", text, flags=re.MULTILINE)[1:]
    return tuple(
        Section(anchor=build_anchor(title), title=title.strip(), text=body.strip())
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    )


def build_anchor(title: str) -> str:
    """Return the anchor of a heading as a repository's site makes it: lower case, hyphens."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
