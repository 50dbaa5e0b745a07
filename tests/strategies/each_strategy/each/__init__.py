"""A Flower app that runs each strategy of Flower's in turn, over compressed updates."""
