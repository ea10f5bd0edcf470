"""Fits over rows on disk, in bounded memory."""
