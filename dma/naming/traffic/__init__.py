"""Guesses from the traffic itself: what the first bytes of a connection say, and which program makes it."""
