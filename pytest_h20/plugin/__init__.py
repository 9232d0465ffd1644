"""All that pytest calls."""
