"""The coordinator: leases slices of inference jobs to vehicles that may leave at any moment."""
