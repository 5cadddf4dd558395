"""C++ that goes into written projects: kernels (nnet_utils) and the test bench."""
