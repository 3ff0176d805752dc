"""Reports of a run and of a lab: one HTML page each, which asks nothing of any other."""
