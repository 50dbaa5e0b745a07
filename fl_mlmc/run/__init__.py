"""What a run is: its config, the protocol between its sides, its log and its randomness."""
