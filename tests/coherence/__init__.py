"""Proof of coherence: histories of real processes, checked; and a suite that can fail."""
