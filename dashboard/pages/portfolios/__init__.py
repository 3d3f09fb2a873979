"""Portfolios: the sessions, ranks and quests of one player."""
