"""Outside both machines: the demo, the benchmarks and the simulators. May import anything."""
