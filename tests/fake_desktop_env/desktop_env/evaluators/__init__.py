"""The names of the tests."""
