"""Upstreams: where a job manager's deliveries come from."""
