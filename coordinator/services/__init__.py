"""The fronts: each turns calls of its protocol into calls of the runtime, and refusals into its statuses."""
