"""A deterministic simulator: the real core, wire, link and lot in one thread, on virtual time, among faults."""
