"""Writes grids.bin, the points of the grids of GGUF's IQ1, IQ2 and IQ3 types. Needs gguf 0.19.0. usage: grids.py OUT

A point is a little-endian 16-bit word: eight levels of two bits, or four of three bits (IQ3), the first weight's lowest.
The points are constants of the format, found by ggml's authors by a search over weights: nothing shorter gives them."""
import sys
import numpy as np
from gguf import quants

out = b""
for kind in (quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S):
    kind.init_grid()
    points, weights = kind.grid_shape
    levels = np.searchsorted(np.array(kind.grid_map, np.float32), kind.grid.reshape(points, weights)).astype(np.uint32)
    words = (levels << (np.arange(weights, dtype=np.uint32) * (16 // weights - (weights == 4)))).sum(axis=1)
    out += words.astype("<u2").tobytes()
open(sys.argv[1], "wb").write(out)
