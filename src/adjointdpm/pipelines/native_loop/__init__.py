"""A native solve in place of a pipeline's loop, read off a run of it."""
