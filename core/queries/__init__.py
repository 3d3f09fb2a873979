"""All SQL statements of the service, with about one module for each table."""

from core.queries import distributed as distributed  # registers the statements for distributed tables
