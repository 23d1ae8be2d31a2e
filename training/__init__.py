"""How the bundled models were made: each script is run as `python -m training.NAME`."""
