"""Tokens, credentials, and who may read what."""
