"""Beats that have a leader: the lock and the last runs, wherever they are kept."""
