"""Tokens, credentials, and who may read what. Nothing here talks to the network: whoever does passes a way to."""
