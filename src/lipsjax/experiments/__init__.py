"""Commands: each module is one, and thin."""
