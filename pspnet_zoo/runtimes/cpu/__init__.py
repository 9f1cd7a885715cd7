"""Fast arithmetic on CPUs."""
