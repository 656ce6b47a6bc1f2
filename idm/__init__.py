"""The Instance Deployment Manager: launches a stack on a hypervisor and carries out the rollbacks."""
