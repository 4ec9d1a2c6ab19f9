"""eMQP/1.0 without I/O: commands as values, frames as bytes, sessions as tables."""
