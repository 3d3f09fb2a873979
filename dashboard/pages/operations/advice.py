"""Advice on the problems that the Operations page shows: one sentence per panel, and a link to more help.

The links open a section of `docs/troubleshooting.md`, which the dashboard shows as the Troubleshooting page.
"""

import re
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from core.installation import TROUBLESHOOTING

Topic = Literal[
    "health", "alerts", "pool", "replicas", "cache", "latency", "statements", "size", "redis", "migrations"
]  # fmt: skip  # the formatter would put each topic on its own line

PAGE = "troubleshooting"


class Advice(NamedTuple):
    """The advice for a panel: a sentence, and the anchor of the section of the Troubleshooting page."""

    text: str
    section: str


ADVICE: dict[Topic, Advice] = {
    "health": Advice(
        "Not healthy: `make status` shows what does not run, `make up` starts it.", "echodatabasedown"
    ),
    "alerts": Advice("If an alert stays active, read the logs first.", "troubleshooting"),
    "pool": Advice(
        "If requests wait for long, find what holds connections, then raise `DATABASE_CONNECTION_LIMIT`.",
        "echopoolnearlyexhausted",
    ),
    "replicas": Advice(
        "A replica that is left out comes back by itself; the logs of the processes say why it was left out.",
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
    """A section of the Troubleshooting page. A link to the section ends with `#` and its anchor."""

    anchor: str
    title: str
    text: str


def build_advice(topic: Topic) -> str:
    """Return the advice for a panel and the link to more help, as Markdown."""
    advice = ADVICE[topic]
    return f"{advice.text} [More]({build_link(advice.section)})"


def build_link(anchor: str) -> str:
    """Return the address of a section of the Troubleshooting page, relative to any page."""
    return f"{PAGE}#{anchor}"


def build_rule_link(rule: str) -> str:
    """Return the address of the section for an alert rule, or of the introduction if there is no section."""
    anchor = build_anchor(rule)
    known = {section.anchor for section in read_sections()}
    return build_link(anchor if anchor in known else ADVICE["alerts"].section)


@cache
def read_sections(document: Path = TROUBLESHOOTING) -> tuple[Section, ...]:
    """Return the sections of the document: the introduction, then one for each second-level heading.

    If the document cannot be read, the result is empty.
    """
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
    """Return the anchor that GitHub makes from a heading: `Slow statements` becomes `slow-statements`."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
