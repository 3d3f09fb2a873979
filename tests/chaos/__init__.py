"""Cause faults in a running stack under load, and count lost writes and stale reads."""
