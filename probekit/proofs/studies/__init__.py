"""Studies: one question each, asked by one command, with numbers that a page of the docs is held to."""
