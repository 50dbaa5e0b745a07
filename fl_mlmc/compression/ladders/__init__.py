"""Ladders, one biased family a file; `base` says what a ladder is."""
