"""The service on servers as people have them: other versions, poolers, roles, defaults."""
