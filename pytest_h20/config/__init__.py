"""What a person writes: inventory, limits, expectations, cells."""
