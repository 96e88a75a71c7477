"""Stands for OSWorld's package: the parts that the service uses."""
