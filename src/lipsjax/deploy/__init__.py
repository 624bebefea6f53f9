"""Out of the simulator into federated systems: what clients and servers there need. No JAX."""
