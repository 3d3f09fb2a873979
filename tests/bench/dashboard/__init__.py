"""Measure the dashboard under load: many visitors, page times, and dropped connections."""
