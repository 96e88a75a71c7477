"""Desk: a desktop of six applications that runs inside jit."""
