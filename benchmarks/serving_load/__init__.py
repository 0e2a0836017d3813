"""Load, upstreams and processes for the benchmark of the gateway."""
