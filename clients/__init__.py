"""The client side: imports on a device that has only flwr, torch and numpy."""
