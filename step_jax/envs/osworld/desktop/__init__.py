"""A bare desktop that speaks OSWorld's protocol; see `__main__.py`."""
