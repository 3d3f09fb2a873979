"""Tests; see the folder's name for what they need."""
