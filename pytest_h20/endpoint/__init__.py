"""The serving endpoint: the raw wire, a normalising client for both dialects, and the checks of three gates."""
