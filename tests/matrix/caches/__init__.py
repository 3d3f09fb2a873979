"""Tests of the cache on Redis and Valkey: ACL users, replicas, clusters, sentinels, sockets, TLS."""
