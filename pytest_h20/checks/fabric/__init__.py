"""Checks of what the wires between the nodes can do."""
