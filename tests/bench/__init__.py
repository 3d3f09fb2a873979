"""Measurements of the service against other implementations of the same calls: `make bench`."""
