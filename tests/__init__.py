"""Tests, and the labs that they run in."""
