"""The leakboard: a page that reads run folders and shows what leaks where. It imports neither torch nor a model."""
