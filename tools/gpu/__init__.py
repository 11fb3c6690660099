"""Steps that test and measure this package on a GPU; ``tools/gpu_check.py`` runs them."""
