"""Many images or frames through one function: read ahead, run, write behind."""
