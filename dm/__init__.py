"""The Dependency Manager: keeps the live graph, judges it against the golden image and decides on rollbacks."""

import os

# gRPC's own log would mix with ours, and a stranger at the TLS port could fill the disk with it. Read at its import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
