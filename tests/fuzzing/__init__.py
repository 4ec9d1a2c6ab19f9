"""Random and mutated messages at every socket."""
