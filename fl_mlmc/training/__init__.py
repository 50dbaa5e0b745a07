"""What a client trains with: objectives, optimizers, threads."""
