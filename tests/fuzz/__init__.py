"""What always holds of the parsers, whatever they are given: for hypothesis on each test run, and for a longer hunt."""
