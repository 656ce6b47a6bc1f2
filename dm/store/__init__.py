"""Durable state of the manager."""
