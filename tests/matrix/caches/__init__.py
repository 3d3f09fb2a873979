"""The cache on Redis servers as people have them: users, roles, clusters, sockets, certificates."""
