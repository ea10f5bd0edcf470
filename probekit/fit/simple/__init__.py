"""Small functions of a few directions, the directions and the function fitted jointly."""
