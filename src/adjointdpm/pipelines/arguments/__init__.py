"""What a pipeline's call takes, as users write it."""
