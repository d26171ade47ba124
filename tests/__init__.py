"""Pulltap's tests."""
