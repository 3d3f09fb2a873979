"""Collectors that query the servers themselves; one module per server."""
