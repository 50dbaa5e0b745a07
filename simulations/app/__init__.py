"""The Flower ServerApp, and the ways to start a run of it."""
