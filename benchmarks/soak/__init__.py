"""Runs that are killed again and again, resumed, and compared with runs that were left alone."""
