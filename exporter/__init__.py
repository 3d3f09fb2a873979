"""The exporter: metrics and health of the stack over HTTP; reads, and never writes to, the database."""
