"""Data sets as arrays on disk: loaded, split and shared out once, then only read."""
