"""Real labs: certificates, keys, containers, and the same processes on one machine."""
