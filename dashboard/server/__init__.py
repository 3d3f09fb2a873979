"""The ASGI application around the pages: start and stop, probes, access, security headers, assets."""
