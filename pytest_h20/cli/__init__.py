"""``python -m pytest_h20 COMMAND``, a module per command."""
