"""Pulltap: a mitmproxy addon that keeps every container layer it has seen."""

__version__ = "0.1.0"
