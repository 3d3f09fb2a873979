"""The whole stack on this machine, without a container engine.

Owns the embedded servers and their supervision. Nothing that serves players
imports this package; it starts the other processes as command lines and never
opens the service itself.
"""
