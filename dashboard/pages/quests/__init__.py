"""The Quests page: how quests end, which rewards they give, and which quests are stuck."""
