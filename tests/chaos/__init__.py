"""Faults of a running stack, in containers or not, while one writer and several readers count."""
