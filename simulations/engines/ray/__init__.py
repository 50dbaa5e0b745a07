"""The `ray` engine: clients in batches on Ray actors, one for each processor of the cluster."""
