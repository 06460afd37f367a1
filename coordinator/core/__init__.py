"""The pure core: no clock, no await, no randomness, no I/O. Time and ids are parameters."""
