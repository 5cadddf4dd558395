#ifndef BNNFLOW_HLS_STREAM_H_
#define BNNFLOW_HLS_STREAM_H_

#include "ap_int.h"

// A stream is a port of a FIFO: each access is one call, which an HLS compiler schedules as one operation. The queue behind
// it is in the file that is not compiled as a design, the test bench.
// With FLOW_CHANNELS it is words of 64 bits in FIFOs beside each other, whose ends are functions that Bambu knows by name.

#ifdef FLOW_CHANNELS

template <class T> struct ac_channel {
    struct fifo {
        T _read();
        bool _write(T value);
    } chan;
};
typedef ac_channel<unsigned long long> flow_channel;

namespace hls {

template <class T, int DEPTH = 0> struct stream {
    static const int bits = T::value_type::width, fields = 64 / bits, words = (T::size + fields - 1) / fields;

    flow_channel *channel[words];

    stream() {}
    explicit stream(const char *) {}
    __attribute__((always_inline)) T read() {
        unsigned long long word[words];
        for (int k = 0; k < words; k++) {
            flow_unroll(0);
            word[k] = channel[k]->chan._read();
        }
        T value;
        for (int i = 0; i < (int)T::size; i++) {
            flow_unroll(0);
            value[i].range(bits - 1, 0) = ap_uint<bits>(word[i / fields] >> (i % fields * bits));
        }
        return value;
    }
    __attribute__((always_inline)) void write(const T &value) {
        unsigned long long word[words];
        for (int i = 0; i < (int)T::size; i++) {
            flow_unroll(0);
            const ap_uint<bits> code = value[i].range(bits - 1, 0);
            const unsigned long long field = code.to_uint64() << (i % fields * bits);
            word[i / fields] = i % fields ? word[i / fields] | field : field;
        }
        for (int k = 0; k < words; k++) {
            flow_unroll(0);
            channel[k]->chan._write(word[k]);
        }
    }

  private:
    stream(const stream &);
    stream &operator=(const stream &);
};

} // namespace hls

#else

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

#endif // FLOW_CHANNELS

#endif
