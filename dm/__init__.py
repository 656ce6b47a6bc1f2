"""The Dependency Manager: keeps the live graph, judges it against the golden image and decides on rollbacks."""
