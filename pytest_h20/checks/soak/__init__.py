"""Gate ``soak``: what time does to an engine that is up."""
