"""Who is let in, and what may run."""
