"""Flower (flwr): a client mod, a server strategy around any, and an app made of a study."""
