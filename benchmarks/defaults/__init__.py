"""What the commands reach with default flags, for many metrics."""
