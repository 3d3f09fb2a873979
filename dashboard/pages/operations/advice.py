"""Advice for problems that the Operations page shows: one sentence per panel, and a link to more help.

The links lead to sections of `docs/troubleshooting.md`, which is a page of the dashboard as well.
"""

import re
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from core.installation import TROUBLESHOOTING

Topic = Literal[
    "health", "alerts", "pool", "replicas", "cache", "latency", "statements", "size", "redis", "migrations"
]  # fmt: skip  # one topic per line would only be longer

PAGE = "troubleshooting"


class Advice(NamedTuple):
    """The advice as a sentence, and the anchor of the section with details."""

    text: str
    section: str


ADVICE: dict[Topic, Advice] = {
    "health": Advice(
        "Not healthy: `make status` shows what does not run, `make up` starts it.", "echodatabasedown"
    ),
    "alerts": Advice("If an alert stays active, read the logs first.", "troubleshooting"),
    "pool": Advice(
        "Requests waiting for long: find what holds connections, then raise `DATABASE_CONNECTION_LIMIT`.",
        "echopoolnearlyexhausted",
    ),
    "replicas": Advice(
        "A replica that is left out comes back by itself; the logs of the processes say why it is.",
        "echoreplicalagging",
    ),
    "cache": Advice(
        "Amber under load: look for bursts of writes, or for a Redis that evicts keys.",
        "echocachehitratiolow",
    ),
    "latency": Advice(
        "p99 above 100 ms for long: find the slow operation under Database operations, then its statements.",
        "echolatencybudgetburnsfast",
    ),
    "statements": Advice(
        "One statement takes far more than all others: `EXPLAIN` it, and look for a missing index.",
        "slow-statements",
    ),
    "size": Advice(
        "A table outgrows the others: drop old months with `echo-markets maintain --keep-days`.",
        "large-tables-and-unused-indexes",
    ),
    "redis": Advice(
        "Near its limit with many evictions: raise `maxmemory`. Down: calls still work, but slower.",
        "echoredisdown",
    ),
    "migrations": Advice(
        "Pending: `make migrate` applies them; `echo-markets migrate status` lists them.",
        "echomigrationspending",
    ),
}


class Section(msgspec.Struct, frozen=True):
    """A section of the troubleshooting page and the anchor of its links."""

    anchor: str
    title: str
    text: str


def build_advice(topic: Topic) -> str:
    """Return the advice of a panel with its link, as Markdown."""
    advice = ADVICE[topic]
    return f"{advice.text} [More]({build_link(advice.section)})"


def build_link(anchor: str) -> str:
    """Return the address of a section, relative to any page."""
    return f"{PAGE}#{anchor}"


def build_rule_link(rule: str) -> str:
    """Return the address of the section for an alert rule, or of the general section for an unknown rule."""
    anchor = build_anchor(rule)
    known = {section.anchor for section in _read_shipped()}
    return build_link(anchor if anchor in known else ADVICE["alerts"].section)


@cache
def _read_shipped() -> tuple[Section, ...]:
    return read_sections()


def read_sections(document: Path = TROUBLESHOOTING) -> tuple[Section, ...]:
    """Return the introduction of the document and one section per second-level heading."""
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
    """Return the anchor that GitHub and similar sites make from a heading: lower case, hyphens."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
