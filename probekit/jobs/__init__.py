"""A spec becomes cells, cells become records in a run folder."""
