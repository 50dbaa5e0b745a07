"""A federation of real devices: keys, the server with its gate, and nodes. Needs only what flwr brings along."""
