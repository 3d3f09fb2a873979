"""The contenders of the benchmark: each module implements the same reads and writes differently."""
