"""The Portfolios page: the sessions, ranks and quests of one player."""
