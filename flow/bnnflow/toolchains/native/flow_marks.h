#ifndef BNNFLOW_FLOW_MARKS_H_
#define BNNFLOW_FLOW_MARKS_H_

// What the pragmas of HLS become: calls that stay with their loop or function in LLVM's code, and are then taken out.
extern "C" {
void flow_pipeline();                                            // PIPELINE
void flow_dataflow();                                            // DATAFLOW
void flow_apart();                                               // INLINE off
void flow_unroll(int factor);                                    // UNROLL; 0: completely
void flow_registers(const volatile void *array, int dimension); // ARRAY_PARTITION complete; 0: along all dimensions
}

#ifndef __SYNTHESIS__ // the test bench
void flow_pipeline() {}
void flow_dataflow() {}
void flow_apart() {}
void flow_unroll(int) {}
void flow_registers(const volatile void *, int) {}
#endif

#endif
