"""Flax policies: what the learner and the rollout need of a network."""
