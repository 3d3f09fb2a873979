"""The stack of one checkout, behind `make up` and related commands: in containers or on embedded servers.

The programs that serve players never import this package. It starts them as separate processes and never
opens the service itself.
"""
