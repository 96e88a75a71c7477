"""Worlds: `gymnasium.Env`s that show elements and take token actions."""
