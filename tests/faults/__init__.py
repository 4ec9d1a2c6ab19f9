"""Kills, cuts and full disks: what was promised is counted on disk."""
