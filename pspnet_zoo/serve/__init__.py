"""A server that segments images over HTTP."""
