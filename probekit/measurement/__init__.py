"""One behaviour at one hook point: readers fitted, controls beside them, records made."""
