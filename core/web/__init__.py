"""What the web servers of the dashboard and the exporter share: deadlines, hosts, encodings, rate limits.

Needs the extra `dashboard` or `exporter`; nothing else of `core` imports it.
"""
