"""Codecs: what is written as an action, read by a grammar, and back."""
