"""The services of a small web shop. Each module that names a container is run there as ``python3 -m services.NAME``."""
