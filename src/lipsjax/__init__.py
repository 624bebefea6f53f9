"""A vectorised simulator of low-data federated learning."""
