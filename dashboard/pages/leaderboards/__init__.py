"""Leaderboards: a category in one session, or over several."""
