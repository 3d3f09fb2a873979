"""What the exporter asks the servers themselves: a file per server, beside the pool and the cache."""
