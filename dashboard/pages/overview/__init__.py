"""The Overview page: the newest session at a glance."""
