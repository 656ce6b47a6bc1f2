"""A stack of two VMs on libvirt's test hypervisor."""

URI = "test:///default"
STACK = """
[stack]
name = "tiny"
driver = "libvirt"

[network]
subnet = "198.18.66.0/24"

[vcd.one]
image = "{base}"

[vcd.two]
image = "{base}"
after = ["one"]

[rollback]
snapshot = "overlay"
"""
