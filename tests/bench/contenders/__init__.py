"""The contenders: each module implements the same reads and writes in a different way."""
