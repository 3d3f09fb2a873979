"""`make up` and related commands: start, watch and stop the whole stack of this checkout.

The stack runs in containers or on embedded servers. This package starts the programs, such as the exporter
and the dashboard, as separate processes. These programs never import this package. This package never opens
an `EnhancedDatabaseService` itself.
"""
