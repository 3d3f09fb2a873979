"""Tests of the service on other PostgreSQL versions and poolers, and with other roles and server defaults."""
