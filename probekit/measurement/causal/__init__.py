"""Causal: what a model does when its activations are edited: kept, erased, exchanged, added to, and composed."""
