"""What can go wrong for the deployer itself; drivers and manifests have errors of their own."""


class DeployError(Exception):
    """The deployer cannot go on; the message is one line that says what to try."""
