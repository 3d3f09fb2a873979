"""Measurements against the bare drivers: `make bench`."""
