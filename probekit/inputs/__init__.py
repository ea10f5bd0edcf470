"""From a user's files and arrays to a Task: columns, texts, positions, behaviours. No torch."""
