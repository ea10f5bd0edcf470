"""Causal: formulas of laws before and after an edit: what is kept, needed, exchanged, added, and how parts add up."""
