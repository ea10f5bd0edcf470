"""The command line. What needs torch is imported inside the command that needs it."""
