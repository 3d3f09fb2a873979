"""The Leaderboards page: the players of a category, ranked in one session or over several sessions."""
