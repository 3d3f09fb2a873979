"""Quests: progress, rewards and deadlines."""
