"""Bytes on their way."""
