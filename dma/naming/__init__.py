"""Addresses to service names, each with its provenance."""
