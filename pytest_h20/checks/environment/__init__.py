"""Checks of what the machines are."""
