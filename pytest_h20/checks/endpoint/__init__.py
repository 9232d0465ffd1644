"""Checks of the API: wire, generation, usage, errors, reasoning and answers."""
