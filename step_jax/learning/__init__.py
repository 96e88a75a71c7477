"""Learning: the optax update, one compilation for rounds of any size."""
