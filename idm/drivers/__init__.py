"""What runs the machines: one module per hypervisor or container engine."""
