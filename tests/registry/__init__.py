"""The protocol as values."""
