"""Load, check, read and edit a model at named hook points; the only importer of transformer_lens; one lock a model."""
