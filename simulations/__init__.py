"""Ways to run a whole federation on one machine, and benchmarks."""
