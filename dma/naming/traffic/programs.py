"""What is spoken, by the name of the program that calls."""

from dma.flow import Address, Destination
from dma.naming.method import Counters
from dma.naming.name import CONFIDENCE, Name, Source

# By the kernel's name of a client's process, which ends after 15 bytes.
PROTOCOLS = {
    "psql": "postgresql",
    "pg_dump": "postgresql",
    "pg_isready": "postgresql",
    "mysql": "mysql",
    "mysqldump": "mysql",
    "mysqladmin": "mysql",
    "mariadb": "mysql",
    "redis-cli": "redis",
    "mongosh": "mongodb",
    "cqlsh": "cassandra",
    "etcdctl": "etcd-client",
    "ssh": "ssh",
    "sftp": "ssh",
    "curl": "http",
    "wget": "http",
    "mosquitto_pub": "mqtt",
    "mosquitto_sub": "mqtt",
    "ldapsearch": "ldap",
    "ntpd": "ntp",
    "chronyd": "ntp",
}


class Programs:
    """See ``dma.naming.method.Method``: a hint for where nothing better is known."""

    source = Source.PROCESS

    def __init__(self) -> None:
        self.counters = Counters()

    def lookup(self, destination: Destination) -> tuple[Name, ...]:
        """The protocol of a well-known client."""
        protocol = PROTOCOLS.get(destination.command)
        return (Name(protocol, self.source, CONFIDENCE[self.source]),) if protocol else ()

    def changed(self) -> set[Address]:
        """None: a program keeps its name."""
        return set()

    def close(self) -> None:
        """Nothing is held."""
