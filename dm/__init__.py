"""The Dependency Manager: keeps the live graph, judges it against the golden image and decides on rollbacks."""

import os

# gRPC's C core reads this once, while it is imported. A peer that goes away in good order is no error to print, and a
# stranger at the TLS port could fill the disk with lines.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
