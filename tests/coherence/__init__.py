"""Real processes read and write through the cache: no read may be stale, except with a mutant."""
