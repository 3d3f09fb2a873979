"""Compare the service with other implementations of the same calls: `make bench`."""
