"""Unit, integration, fault, coherence and end-to-end tests, and benchmarks."""
