"""The registry protocol as plain values: nothing here does I/O, and nothing but the standard library is imported."""
