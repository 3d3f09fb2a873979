"""The whole stack of one checkout: `make up` and its siblings, in containers or on embedded servers.

Nothing that serves players imports this package. It starts the other processes as command lines and
never opens the service itself.
"""
