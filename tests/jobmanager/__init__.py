"""Tests of the job manager."""
