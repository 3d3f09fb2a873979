"""The dashboard under load: visitors by the dozen, times of pages, sessions that vanish."""
