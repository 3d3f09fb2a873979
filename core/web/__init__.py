"""What the web servers of dashboard and exporter share: deadlines, host names, encodings, rate limits.

Needs the extra `dashboard` or `exporter`. No other module of `core` imports this package.
"""
