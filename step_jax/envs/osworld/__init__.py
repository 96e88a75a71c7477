"""OSWorld: a desktop that speaks its protocol, and environments on it."""
