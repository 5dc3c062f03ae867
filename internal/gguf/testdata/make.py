"""Makes blocks.gguf: for every element type the reader knows, a tensor of random blocks and, as NAME.f32, what the gguf
package dequantizes it to; and one metadata pair of every type. Needs gguf 0.19.0. usage: make.py OUT"""
import sys
import numpy as np
from gguf import GGUFWriter, GGUFValueType as V, GGMLQuantizationType as T, GGML_QUANT_SIZES, dequantize

# byte positions of the float16 fields of a block, which get sensible values instead of random bits
F16_FIELDS = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0], T.IQ1_S: [0], T.IQ1_M: [],
    T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.MXFP4: [],
}
rng = np.random.default_rng(1)
w = GGUFWriter(sys.argv[1], "test")
for kind, value in [(V.UINT8, 200), (V.INT8, -3), (V.UINT16, 60000), (V.INT16, -300), (V.UINT32, 4000000000), (V.INT32, -70000),
                    (V.FLOAT32, 0.25), (V.BOOL, True), (V.STRING, "naïve"), (V.UINT64, 1 << 60), (V.INT64, -(1 << 60)), (V.FLOAT64, 1e-300)]:
    w.add_key_value("test." + kind.name.lower(), value, kind)
w.add_array("test.strings", ["a", "", "ü"])
w.add_array("test.int32s", [1, -2, 3])
w.add_array("test.float32s", [0.5, -1.5])
w.add_array("test.bools", [True, False])

for t, fields in F16_FIELDS.items():
    per, size = GGML_QUANT_SIZES[t]
    rows, blocks = 2, max(1, 64 // per)
    raw = rng.integers(0, 256, (rows * blocks, size), dtype=np.uint8)
    for at in fields:
        raw[:, at : at + 2] = (rng.standard_normal((len(raw), 1)) * 0.02).astype(np.float16).view(np.uint8)
    if t == T.IQ1_M:  # the float16 is made of the top nibbles of four words
        raw[:, 49::2] &= 0x0F
        raw[:, [51, 53, 55]] |= np.array([0x10, 0x40, 0x20], np.uint8)
    if t == T.MXFP4:  # exponents; 0 and 1 give subnormal numbers
        raw[:, 0] = np.resize([0, 1, 2, 126, 128], len(raw))
    raw = raw.reshape(rows, blocks * size)
    w.add_tensor(t.name, raw, raw_dtype=t)
    w.add_tensor(t.name + ".f32", dequantize(raw, t).astype(np.float32))

half = np.array([[0, 1, -2.5, 65504, 6e-8, -6e-5, 0.333, 1e-3]], np.float16)
w.add_tensor("F16", half)
w.add_tensor("F16.f32", half.astype(np.float32))
brain = rng.standard_normal((1, 8)).astype(np.float32).view(np.uint32) >> 16
w.add_tensor("BF16", brain.astype(np.uint16).view(np.uint8), raw_dtype=T.BF16)
w.add_tensor("BF16.f32", (brain << 16).astype(np.uint32).view(np.float32))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
