"""From a model and a task to rows of activations and what the model did there, kept under a key of what went in."""
