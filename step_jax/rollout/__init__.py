"""Rollout: collecting trajectories, in processes or on the device."""
