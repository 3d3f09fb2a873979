"""Integration tests: they need the PostgreSQL and Valkey servers that the fixtures start."""
