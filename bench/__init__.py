"""Measurements of speed, one benchmark a file, each beside its peers on the same seeded workload."""
