#ifndef BNNFLOW_HLS_STREAM_H_
#define BNNFLOW_HLS_STREAM_H_

// A stream is a port of a FIFO: each access is one call, which an HLS compiler schedules as one operation. The queue behind
// it is in the file that is not compiled as a design, the test bench.

extern "C" void flow_fifo_read(const void *fifo, void *value, unsigned long bytes);
extern "C" void flow_fifo_write(const void *fifo, const void *value, unsigned long bytes);
extern "C" bool flow_fifo_empty(const void *fifo);

namespace hls {

template <class T, int DEPTH = 0> struct stream {
    char place; // its address is the FIFO's name

    stream() {}
    explicit stream(const char *) {}
    __attribute__((always_inline)) T read() {
        T value;
        flow_fifo_read(this, &value, sizeof(T));
        return value;
    }
    __attribute__((always_inline)) void read(T &value) { flow_fifo_read(this, &value, sizeof(T)); }
    __attribute__((always_inline)) void write(const T &value) { flow_fifo_write(this, &value, sizeof(T)); }
    __attribute__((always_inline)) bool empty() const { return flow_fifo_empty(this); }

  private:
    stream(const stream &);
    stream &operator=(const stream &);
};

} // namespace hls

#ifndef __SYNTHESIS__
#include <deque>
#include <map>
#include <string>

static std::map<const void *, std::deque<std::string> > flow_fifos;

extern "C" void flow_fifo_read(const void *fifo, void *value, unsigned long bytes) {
    std::deque<std::string> &queue = flow_fifos[fifo];
    if (queue.empty()) { // as the vendors' simulations: a read from an empty stream gives zeros
        __builtin_memset(value, 0, bytes);
        return;
    }
    __builtin_memcpy(value, queue.front().data(), bytes);
    queue.pop_front();
}

extern "C" void flow_fifo_write(const void *fifo, const void *value, unsigned long bytes) {
    flow_fifos[fifo].push_back(std::string(static_cast<const char *>(value), bytes));
}

extern "C" bool flow_fifo_empty(const void *fifo) { return flow_fifos[fifo].empty(); }
#endif

#endif
