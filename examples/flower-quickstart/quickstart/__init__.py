"""Flower's quickstart: a small network on handwritten digits."""
