"""Collectors of metrics that come from PostgreSQL and Redis themselves."""
