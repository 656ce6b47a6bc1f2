"""The agent's way into the guests: what each of them gets, and how it gets there."""
