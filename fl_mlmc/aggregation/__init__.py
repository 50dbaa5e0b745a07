"""How a round's updates become one step of the model: means over who holds a coordinate, and the server's optimizer."""
