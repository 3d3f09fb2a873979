"""The contenders: one module for each way of reading and writing the same data."""
