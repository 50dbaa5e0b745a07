"""Where simulated clients compute: in this process (`local`) or on Ray (`ray`)."""
