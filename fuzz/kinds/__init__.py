"""The kinds of inputs; each is a module with `cases`, what to draw, and `run`, one of them."""
