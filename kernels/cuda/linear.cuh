// What the products with packed weights do with their sums: decode's and prefill's kernels, and their launchers, agree on it.
#pragma once
#include "tile.cuh"

#define LINEAR_FN static __device__ __forceinline__

enum Epilogue : u32 { STORE = 0, ADD = 1, SWIGLU = 2 }; // SWIGLU: of a paired weight
