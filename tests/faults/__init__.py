"""What the caller gets when a server fails, and what is true afterwards."""
