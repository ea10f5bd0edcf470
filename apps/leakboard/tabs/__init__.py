"""The tabs of the page Map, a module each."""
