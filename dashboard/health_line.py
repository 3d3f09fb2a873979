"""The health line above every page: the current problem and when it began, or the last incident.

It shows the last sample of `monitoring.sampler`, and sends no request to any server. It needs no timer:
`server.page_reruns` runs all open pages again when the health changes.
"""

from datetime import UTC, datetime

import streamlit as st

from dashboard.formats import escape_markdown, format_duration
from dashboard.monitoring.incidents import Incident
from dashboard.monitoring.sampler import Sampler, StackSample, find_sampler
from dashboard.server.access import Visitor

OPERATIONS_LINK = "[see Operations](operations)"
STATUS_COLOURS = {"unhealthy": "red", "degraded": "orange"}


def show_health_line(visitor: Visitor | None) -> None:
    """Show the health line if the visitor is allowed to see it and this process has a sampler."""
    sampler = find_sampler()
    if visitor is None or not visitor.sees_health or sampler is None:
        return
    with st.container(key="health"):
        st.caption(build_health_line(sampler, now=datetime.now(UTC), shows_reasons=visitor.sees_reasons))


def build_health_line(sampler: Sampler, *, now: datetime, shows_reasons: bool) -> str:
    """Return the health line as Markdown; with `shows_reasons`, it has the error messages of the servers."""
    sample = sampler.latest
    if sample is None or not sampler.is_current:
        when = f"no answer since {_format_time(sample.health.timestamp, now)}" if sample else "checking"
        return f":gray-badge[Health unknown] {when}"
    return describe_sample(sample, started_at=sampler.started_at, now=now, shows_reasons=shows_reasons)


def describe_sample(sample: StackSample, *, started_at: datetime, now: datetime, shows_reasons: bool) -> str:
    """Return the health line for a sample, as Markdown. The dashboard started at `started_at`."""
    if not sample.problems:
        last = next((item for item in sample.incidents if item.ended_at), None)
        if last is None:
            # without the words "watching since", the time would look like the end of an incident
            return f":green-badge[All healthy] · no incident; watching since {_format_time(started_at, now)}"
        described = _describe_incident(last, now, shows_reasons=shows_reasons)
        return f":green-badge[All healthy] · last incident: {described}"
    first = sample.problems[0]
    began = min(item.began_at for item in sample.incidents if item.ended_at is None)
    status = sample.health.status
    badge = f":{STATUS_COLOURS[status]}-badge[{status.capitalize()}]" if status in STATUS_COLOURS else ""
    reason = f" ({escape_markdown(first.reason)})" if first.reason and shows_reasons else ""
    others = len(sample.problems) - 1
    more = f", and {others} more" if others else ""
    return (
        f"{badge or ':orange-badge[Alert]'} since {_format_time(began, now, seconds=True)}: "
        f"{escape_markdown(first.text)}{reason}{more} · {OPERATIONS_LINK}"
    )


def _describe_incident(incident: Incident, now: datetime, *, shows_reasons: bool) -> str:
    problem = incident.problem
    reason = f" ({escape_markdown(problem.reason)})" if problem.reason and shows_reasons else ""
    lasted = format_duration(incident.seconds or 0)
    began = _format_time(incident.began_at, now)
    return f"{escape_markdown(problem.name)} for {lasted}{reason}, {began}"


def _format_time(moment: datetime, now: datetime, *, seconds: bool = False) -> str:
    """Write a time: `03:12 UTC` if it is today, otherwise `27 Nov 03:12 UTC`."""
    clock = f"{moment:%H:%M:%S}" if seconds else f"{moment:%H:%M}"
    day = "" if moment.date() == now.date() else f"{moment.day} {moment:%b} "
    return f"{day}{clock} UTC"
