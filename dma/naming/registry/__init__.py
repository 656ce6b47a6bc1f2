"""Names from service registries: each is followed by a thread of its own, and looked up without waiting."""
