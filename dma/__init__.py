"""The agent: sees a machine's outbound dependencies and reports them by name."""

__version__ = "0.1.0"
