"""Runs: what a run leaves on disk, and its pictures."""
