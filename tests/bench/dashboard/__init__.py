"""The dashboard under load: dozens of visitors, page times, sessions whose client vanishes."""
