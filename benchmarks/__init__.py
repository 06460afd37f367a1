"""Outside both machines: the demo and the benchmarks. May import anything."""
