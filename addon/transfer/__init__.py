"""Bytes on their way: from upstream into the store, and from the store to clients.

A client's request is a flow of mitmproxy's. What Pulltap itself asks upstream (`upstream`) are flows as well. Between
the two stands the `fill`: one leg upstream writes the ingest file, any number of clients read along (`body`, `stream`).
"""
