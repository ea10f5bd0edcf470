"""How much of probing is the text? Published tasks read by the floor alone, and by a model (docs/floors.md)."""
