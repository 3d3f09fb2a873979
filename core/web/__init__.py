"""Shared by the web servers of the dashboard and the exporter: deadlines, hosts, encodings, rate limits.

Needs the extra `dashboard` or `exporter`; nothing else of `core` imports it.
"""
