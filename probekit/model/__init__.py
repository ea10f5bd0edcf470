"""The only importer of transformer_lens: load, check, read, edit; one lock per model."""
