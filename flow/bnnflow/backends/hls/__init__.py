"""HLS C++ through hls4ml: kernels, how nodes are fused into them, streams between them."""
