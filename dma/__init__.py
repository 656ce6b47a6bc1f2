"""The agent: sees a machine's outbound dependencies and reports them by name."""
