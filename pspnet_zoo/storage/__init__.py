"""Bytes, and the Hub."""
