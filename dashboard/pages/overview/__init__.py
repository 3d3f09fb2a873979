"""Overview: the newest session at a glance."""
