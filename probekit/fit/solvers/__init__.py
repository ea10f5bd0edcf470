"""The solvers behind every readout: L-BFGS over blocks of rows, Newton for small problems, descent from many starts.

L-BFGS and Newton minimise mean cross-entropy (nats) plus ridge / 2 |weight|^2 for all targets at once, each target with
its own step and certificate. Logits are kept as differences to the last outcome, which saves one matrix product in as
many; the parameters live in an orthonormal basis of what sums to zero over outcomes, so that a ridge means the same.
"""
