"""Sub-commands of `carpool` that this package brings."""
