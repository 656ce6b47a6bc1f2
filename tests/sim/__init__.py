"""Stacks in virtual time: programs that call each other, agents that report it by the real messages, and faults."""
