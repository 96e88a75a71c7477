"""Phones over the HTTP protocol of AndroidWorld's own server."""
