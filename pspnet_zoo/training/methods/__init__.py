"""How a step is made, and how less of a network is trained."""
