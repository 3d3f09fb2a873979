"""End-to-end tests: they start whole programs and use them through `make`, HTTP or a browser."""
