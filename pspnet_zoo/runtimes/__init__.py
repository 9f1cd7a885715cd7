"""What runs a network: one file a runtime, one contract."""
