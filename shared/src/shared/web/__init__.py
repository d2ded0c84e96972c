"""HTTP in, and what operators see of a service."""
