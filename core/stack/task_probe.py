"""`python -m core.stack.task_probe TASK`: the health check of a program that listens on no port.

TASK is the name of a task that the program repeats. The exit status is 0 if the task runs, and its last
success is not older than two intervals of the task plus 15 seconds. The probe reads two metrics,
which the task's process writes to METRICS_DIR; the alert EchoTaskLate uses the same metrics. Importing the
stack takes a second of processor time, so this probe runs less often than `probe`.
"""

import sys
import time

from core.metrics import names
from core.metrics.fleet import FleetReader
from core.metrics.writer import MetricWriter
from core.settings import Settings

# tolerance: one attempt may fail, and a busy machine may run the task late
LATE_INTERVALS = 2
SLACK_SECONDS = 15.0


def find_problem(samples: dict[str, float], *, now: float) -> str | None:
    """Return why a task is late, or None if it is on time. `samples` are its metrics, `now` a Unix time."""
    succeeded_at, interval = samples.get(names.TASK_SUCCESS.name), samples.get(names.TASK_INTERVAL.name)
    if succeeded_at is None or not interval:
        return "it has not succeeded yet" if interval else "it does not run"
    seconds = now - succeeded_at
    if seconds > LATE_INTERVALS * interval + SLACK_SECONDS:
        return f"its last success was {seconds:.0f} s ago"
    return None


def main(task: str) -> int:
    """Check the task and return the exit status.

    Writes a failure to standard error, which `docker inspect` shows.
    """
    metrics = FleetReader(MetricWriter(), Settings.load().metrics_dir).collect()
    found = {
        sample.name: sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.labels.get("task") == task
    }
    problem = find_problem(found, now=time.time())
    if problem:
        sys.stderr.write(f"{task}: {problem}\n")
    return int(problem is not None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
