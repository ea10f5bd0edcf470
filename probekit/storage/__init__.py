"""What outlives a process: files published so that a crash costs nothing, run folders, and the store of activations."""
