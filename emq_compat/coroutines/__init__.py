"""Coroutines that plain code waits for: in a loop that a thread keeps, in a new one, or in a shared one."""
