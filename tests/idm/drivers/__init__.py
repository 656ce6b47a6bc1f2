"""Tests of the drivers, against the real engines."""
