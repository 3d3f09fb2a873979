"""The Players page: how many players play, how many return, and which players are silent."""
