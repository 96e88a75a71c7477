"""MiniWoB++ in real Chromium."""
