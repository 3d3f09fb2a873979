"""Players: who plays, who comes back, who is silent."""
