"""A producer's connection to the broker: publish with confirm, wait for results, ask."""
