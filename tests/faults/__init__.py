"""Tests of server faults: callers' results during a fault, and no lost write or stale read after it."""
