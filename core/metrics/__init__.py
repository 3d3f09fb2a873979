"""Metrics: each process counts in files, and the exporter reads the files of all processes of a host."""

from core.metrics.names import Role
from core.metrics.registry import Metrics, open_metrics, run_job

__all__ = ["Metrics", "Role", "open_metrics", "run_job"]
