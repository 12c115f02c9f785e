"""Compiled kernels of local training, with torch in their place where there is no compiler."""
