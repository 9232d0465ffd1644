"""What can be known before the engine starts: probes (command + pure parser), facts, and pure checks on them."""
