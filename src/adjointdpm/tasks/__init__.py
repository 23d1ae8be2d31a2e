"""Tasks: presets of the loop, each with its own evaluation; one file a task."""
