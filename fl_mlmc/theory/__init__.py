"""Convex problems with known constants, step sizes from theorems, and runs of schemes on them: numbers to check."""
