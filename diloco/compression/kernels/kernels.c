/* The arithmetic of codecs and of the outer step, one pass over memory each: what diloco/compression/codecs and
   diloco/outer/optimizers.py do by torch, with the same bytes and the same bits. Plain C without Python.h, called through ctypes, which frees the GIL.

   Every product and sum is rounded by itself (-ffp-contract=off), so that all machines get the same bits. Squares are
   summed in an order that is written down here: sixteen sums per block of 256 in float, blocks in double. What is not
   finite is found, never sent and never added; the caller then asks torch, which says what it is.

   Payloads lie at any address and are read by memcpy. Lengths are checked by every exported function: nothing reads
   or writes outside of what its sizes say. */

#include <stdint.h>
#include <string.h>

#ifndef __has_attribute
#define __has_attribute(name) 0
#endif
/* Copies of a function for newer processors, chosen when the library is loaded; the loader of glibc can. */
#if defined(__x86_64__) && defined(__GLIBC__) && __has_attribute(target_clones) && !defined(DILOCO_ONE_CLONE)
#if defined(__clang__) || __GNUC__ < 12
#define NEWEST "avx512f"
#define CLONES __attribute__((target_clones("default", "avx2", NEWEST)))
#else
#define NEWEST "x86-64-v4"
#define CLONES __attribute__((target_clones("default", "avx2", "arch=" NEWEST)))
#endif
#else
#define CLONES
#endif
#define EXPORTED __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

enum { FP32, FP16, BF16, INT8, INT4, FP4, NUM_FORMATS };
enum { BLOCK = 256, NIBBLE_BLOCK = 64, HALF = NIBBLE_BLOCK / 2, LANES = 16, TILE = 1024 };
enum { TAKEN = 0, REFUSED = 1, MISUSED = 2 };

#define SCALE_MIN 0x1p-126f
#define SCALE_MAX 0x1.fffffep+120f
#define INFINITE 0x7f800000 /* bits of infinity; those of what is not a number are above */
#define ROUNDER 0x1.8p+23f  /* x + ROUNDER has the integer nearest to x, ties to even, in its lowest bits */

typedef float lanes_t __attribute__((vector_size(4 * LANES)));

INLINE int32_t bits_of(float x) { int32_t bits; memcpy(&bits, &x, 4); return bits; }
INLINE float float_of(int32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
INLINE float float_at(const uint8_t *at) { float x; memcpy(&x, at, 4); return x; }
INLINE uint16_t half_at(const uint8_t *at) { uint16_t x; memcpy(&x, at, 2); return x; }
INLINE int64_t blocks_in(int64_t n, int64_t block) { return n / block + (n % block != 0); }
INLINE int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t size_of(int format, int64_t n)
{
    switch (format) {
    case FP32: return 4 * n;
    case FP16: case BF16: return 2 * n;
    case INT8: return 4 * blocks_in(n, BLOCK) + n;
    default: return (2 + HALF) * blocks_in(n, NIBBLE_BLOCK);
    }
}

/* -- rounding one value ------------------------------------------------------------------------------------------ */

INLINE uint16_t bf16_of(float x)
{
    uint32_t bits = (uint32_t)bits_of(x);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > INFINITE ? 0x7fc0 : rounded);
}

INLINE uint16_t fp16_of(float x)
{
    uint32_t sign = (uint32_t)bits_of(x) >> 16 & 0x8000, size = (uint32_t)bits_of(x) & 0x7fffffff;
    uint32_t normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
    /* Below 2^-14 halves are multiples of 2^-24, as floats from 0.5 to 1 are. */
    uint32_t small = (uint32_t)bits_of(float_of((int32_t)size) + 0.5f) - 0x3f000000;
    uint32_t found = size < 0x38800000 ? small : normal;
    found = size >= 0x47800000 ? 0x7c00 : found; /* from 2^16 on, and what is not a number: not finite */
    return (uint16_t)(sign | found);
}

INLINE float float_of_bf16(uint16_t half) { return float_of((int32_t)((uint32_t)half << 16)); }

INLINE float float_of_fp16(uint16_t half)
{
    int32_t size = half & 0x7fff, normal = (size << 13) + 0x38000000;
    float small = (float)size * 0x1p-24f;
    int32_t found = size < 0x400 ? bits_of(small) : normal;
    found = size >= 0x7c00 ? found + 0x38000000 : found; /* not finite: the largest exponent */
    return float_of((int32_t)((uint32_t)found | (uint32_t)(half & 0x8000) << 16));
}

/* -- blocks of floats -------------------------------------------------------------------------------------------- */

/* The bits of the largest magnitude: those of what is not finite are larger than all others. */
INLINE int32_t largest_bits(const float *x, int64_t count)
{
    int32_t top = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t size = bits_of(x[i]) & 0x7fffffff;
        top = size > top ? size : top;
    }
    return top;
}

/* The sum of squares of up to BLOCK floats at any address; not finite if and only if one of them is not. */
INLINE double square_at(const uint8_t *x, int64_t count)
{
    float sums[LANES] = {0}, sum = 0;
    if (count == BLOCK) {
        lanes_t lanes = {0}, values;
        for (int i = 0; i < BLOCK; i += LANES) {
            memcpy(&values, x + 4 * i, sizeof values);
            lanes += values * values;
        }
        memcpy(sums, &lanes, sizeof lanes);
    } else
        for (int64_t i = 0; i < count; i++)
            sums[i % LANES] += float_at(x + 4 * i) * float_at(x + 4 * i);
    for (int i = 0; i < LANES; i++)
        sum += sums[i];
    if ((bits_of(sum) & 0x7fffffff) < INFINITE)
        return sum;
    double wide = 0;
    for (int64_t i = 0; i < count; i++)
        wide += (double)float_at(x + 4 * i) * float_at(x + 4 * i);
    return wide;
}

INLINE double square_of(const float *x, int64_t count) { return square_at((const uint8_t *)x, count); }

INLINE int is_finite(double x) { return x - x == 0; }

/* total = weight * part, or that added to it. The part lies at any address, which may be that of the total. */
INLINE void add_weighted(float *total, const uint8_t *part, int64_t count, float weight, int first)
{
    lanes_t values, sum;
    int64_t at = 0;
    for (; at <= count - LANES; at += LANES) {
        memcpy(&values, part + 4 * at, sizeof values);
        memcpy(&sum, total + at, sizeof sum);
        sum = first ? values * weight : sum + values * weight;
        memcpy(total + at, &sum, sizeof sum);
    }
    for (; at < count; at++) {
        float value = float_at(part + 4 * at) * weight;
        total[at] = first ? value : total[at] + value;
    }
}

CLONES void diloco_add_values(float *total, const float *part, int64_t count, float weight, int first)
{
    if (first)
        add_weighted(total, (const uint8_t *)part, count, weight, 1);
    else
        add_weighted(total, (const uint8_t *)part, count, weight, 0);
}

/* -- encoding: of x [count], which are elements from `start` of n; 0 unless something is refused ------------------- */

INLINE int encode_int8_block(const float *x, int64_t count, uint8_t *scale_at, uint8_t *values)
{
    float scale = float_of(largest_bits(x, count)) / 127.0f;
    float inverse = 1.0f / (scale < SCALE_MIN ? SCALE_MIN : scale), kept = scale <= SCALE_MIN ? 0.0f : scale;
    memcpy(scale_at, &kept, 4);
    for (int64_t i = 0; i < count; i++)
        values[i] = (uint8_t)bits_of(x[i] * inverse + ROUNDER);
    return !(scale <= SCALE_MAX);
}

INLINE int encode_int8(const float *x, int64_t count, uint8_t *out, int64_t n, int64_t start)
{
    uint8_t *scales = out + start / BLOCK * 4, *values = out + 4 * blocks_in(n, BLOCK) + start;
    int64_t whole = count / BLOCK * BLOCK;
    int refused = 0;
    for (int64_t at = 0; at < whole; at += BLOCK, scales += 4)
        refused |= encode_int8_block(x + at, BLOCK, scales, values + at);
    if (whole < count)
        refused |= encode_int8_block(x + whole, count - whole, scales, values + whole);
    return refused;
}

/* Writes a block's scale and gives its inverse; a scale that is not above `least` is 0, and the inverse too. */
INLINE float inverse_scale(const float *x, float top, float least, uint8_t *scale_at, int *refused)
{
    float largest = float_of(largest_bits(x, NIBBLE_BLOCK)) / top;
    uint16_t half = bf16_of(largest <= least ? 0.0f : largest);
    float scale = float_of_bf16(half);
    memcpy(scale_at, &half, 2);
    *refused |= !(scale <= SCALE_MAX);
    return scale == 0.0f ? 0.0f : 1.0f / (scale < least ? least : scale);
}

/* The code of one value. Of fp4: half-way between two powers lies 1.5 times the lower one, and the factor has 4/3 in
   it, so that the exponent of the product is that of the nearest power. Exponents are 121 to 127, and their lowest
   three bits are the code. */
INLINE uint32_t nibble_of(int format, float x, float factor)
{
    if (format == INT4)
        return (uint32_t)bits_of(x * factor + ROUNDER) & 15;
    uint32_t bits = (uint32_t)bits_of(x * factor), code = (bits >> 23 & 7) | (bits >> 28 & 8);
    return (bits & 0x7fffffff) > 0x3c800000 /* 2^-6 */ ? code : 0;
}

INLINE int encode_nibbles(int format, const float *x, int64_t count, uint8_t *out, int64_t n, int64_t start)
{
    uint8_t *scales = out + start / NIBBLE_BLOCK * 2;
    uint8_t *codes = out + 2 * blocks_in(n, NIBBLE_BLOCK) + start / NIBBLE_BLOCK * HALF;
    float padded[NIBBLE_BLOCK] = {0};
    int refused = 0;
    for (int64_t at = 0; at < count; at += NIBBLE_BLOCK, scales += 2, codes += HALF) {
        const float *block = x + at;
        if (count - at < NIBBLE_BLOCK)
            block = memcpy(padded, block, 4 * (size_t)(count - at));
        float factor = format == INT4
            ? inverse_scale(block, 7.0f, SCALE_MIN, scales, &refused)
            : inverse_scale(block, 1.0f, SCALE_MIN * 0x1p6f, scales, &refused) * (float)(4.0 / 3.0);
        uint32_t found[NIBBLE_BLOCK];
        for (int i = 0; i < NIBBLE_BLOCK; i++)
            found[i] = nibble_of(format, block[i], factor);
        for (int i = 0; i < HALF; i++)
            codes[i] = (uint8_t)(found[i] | found[i + HALF] << 4);
    }
    return refused;
}

INLINE int encode_halves(int format, const float *x, int64_t count, uint8_t *out)
{
    int16_t top = 0;
    for (int64_t i = 0; i < count; i++) {
        uint16_t half = format == BF16 ? bf16_of(x[i]) : fp16_of(x[i]);
        int16_t size = (int16_t)(half & 0x7fff);
        memcpy(out + 2 * i, &half, 2);
        top = size > top ? size : top;
    }
    return top >= (format == BF16 ? 0x7f80 : 0x7c00);
}

INLINE int encode_fp32(const float *x, int64_t count, uint8_t *out)
{
    if (count > 0 && (const uint8_t *)x != out)
        memcpy(out, x, 4 * (size_t)count);
    return largest_bits(x, count) >= INFINITE;
}

CLONES int diloco_encode_range(int format, const float *x, int64_t count, uint8_t *out, int64_t n, int64_t start)
{
    switch (format) {
    case FP32: return encode_fp32(x, count, out + 4 * start);
    case FP16: return encode_halves(FP16, x, count, out + 2 * start);
    case BF16: return encode_halves(BF16, x, count, out + 2 * start);
    case INT8: return encode_int8(x, count, out, n, start);
    case INT4: return encode_nibbles(INT4, x, count, out, n, start);
    default: return encode_nibbles(FP4, x, count, out, n, start);
    }
}

/* -- adding: total [count] += weight * the decoded elements from `start` of n ------------------------------------- */

INLINE double add_int8_block(float *total, const uint8_t *values, int64_t count, float scale, float weight, int first)
{
    float factor = scale * weight;
    int32_t square = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t value = (int8_t)values[i];
        float part = (float)value * factor;
        total[i] = first ? part : total[i] + part;
        square += value * value;
    }
    return (double)square * scale * scale;
}

INLINE double add_int8(
    float *total, int64_t count, const uint8_t *payload, int64_t n, int64_t start, float weight, int first)
{
    const uint8_t *scales = payload + start / BLOCK * 4, *values = payload + 4 * blocks_in(n, BLOCK) + start;
    int64_t whole = count / BLOCK * BLOCK;
    double square = 0;
    for (int64_t at = 0; at < whole; at += BLOCK, scales += 4)
        square += add_int8_block(total + at, values + at, BLOCK, float_at(scales), weight, first);
    if (whole < count)
        square += add_int8_block(total + whole, values + whole, count - whole, float_at(scales), weight, first);
    return square;
}

/* Half a block, whose codes are the low or, shifted by 4, the high halves of bytes. Gives the sum of squares of the
   integers that codes stand for, of fp4 in units of 2^-7. */
INLINE int32_t add_codes(
    int format, float *total, int64_t count, const uint8_t *codes, int shift, float scale, float weight, int first)
{
    int32_t squares = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t code = codes[i] >> shift & 15u;
        int32_t integer = (int32_t)(code << 28) >> 28;
        float value = (float)integer;
        if (format == FP4) {
            int32_t size = (int32_t)(code & 7);
            value = float_of((int32_t)((uint32_t)(size > 0 ? (size + 120) << 23 : 0) | (code & 8) << 28));
            integer = (int32_t)(value * 128.0f);
        }
        float part = value * scale * weight;
        total[i] = first ? part : total[i] + part;
        squares += integer * integer;
    }
    return squares;
}

INLINE double add_nibbles(
    int format, float *total, int64_t count, const uint8_t *payload, int64_t n, int64_t start, float weight,
    int first)
{
    const uint8_t *scales = payload + start / NIBBLE_BLOCK * 2;
    const uint8_t *codes = payload + 2 * blocks_in(n, NIBBLE_BLOCK) + start / NIBBLE_BLOCK * HALF;
    double square = 0, unit = format == INT4 ? 1.0 : 0x1p-14;
    for (int64_t at = 0; at < count; at += NIBBLE_BLOCK, scales += 2, codes += HALF) {
        float scale = float_of_bf16(half_at(scales));
        int64_t here = count - at;
        int32_t squares;
        if (here >= NIBBLE_BLOCK) {
            squares = add_codes(format, total + at, HALF, codes, 0, scale, weight, first);
            squares += add_codes(format, total + at + HALF, HALF, codes, 4, scale, weight, first);
        } else {
            squares = add_codes(format, total + at, least_of(HALF, here), codes, 0, scale, weight, first);
            squares += add_codes(format, total + at + HALF, here - HALF, codes, 4, scale, weight, first);
        }
        square += squares * unit * scale * scale;
    }
    return square;
}

/* Formats of one number per element. Not finite if one of them is not. */
INLINE double add_fp32(float *total, int64_t count, const uint8_t *payload, float weight, int first)
{
    double square = 0;
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t here = least_of(BLOCK, count - at);
        square += square_at(payload + 4 * at, here);
        add_weighted(total + at, payload + 4 * at, here, weight, first);
    }
    return square;
}

INLINE double add_halves(int format, float *total, int64_t count, const uint8_t *payload, float weight, int first)
{
    double square = 0;
    float parts[BLOCK];
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t here = least_of(BLOCK, count - at);
        if (format == BF16)
            for (int64_t i = 0; i < here; i++)
                parts[i] = float_of_bf16(half_at(payload + 2 * (at + i)));
        else
            for (int64_t i = 0; i < here; i++)
                parts[i] = float_of_fp16(half_at(payload + 2 * (at + i)));
        square += square_of(parts, here);
        add_weighted(total + at, (const uint8_t *)parts, here, weight, first);
    }
    return square;
}

INLINE double add_range(
    int format, float *total, int64_t count, const uint8_t *payload, int64_t n, int64_t start, float weight,
    int first)
{
    switch (format) {
    case FP32: return add_fp32(total, count, payload + 4 * start, weight, first);
    case FP16: return add_halves(FP16, total, count, payload + 2 * start, weight, first);
    case BF16: return add_halves(BF16, total, count, payload + 2 * start, weight, first);
    case INT8: return add_int8(total, count, payload, n, start, weight, first);
    case INT4: return add_nibbles(INT4, total, count, payload, n, start, weight, first);
    default: return add_nibbles(FP4, total, count, payload, n, start, weight, first);
    }
}

CLONES double diloco_add_range(
    int format, float *total, int64_t count, const uint8_t *payload, int64_t n, int64_t start, float weight,
    int first)
{
    /* Two copies: the first part reads nothing of the sum. */
    return first ? add_range(format, total, count, payload, n, start, weight, 1)
                 : add_range(format, total, count, payload, n, start, weight, 0);
}

/* Whether no scale of a payload is negative, not finite or too large. */
static int scales_valid(int format, const uint8_t *payload, int64_t n)
{
    int valid = 1;
    if (format == INT8)
        for (int64_t i = 0; i < blocks_in(n, BLOCK); i++) {
            float scale = float_at(payload + 4 * i);
            valid &= scale >= 0.0f && scale <= SCALE_MAX;
        }
    if (format == INT4 || format == FP4)
        for (int64_t i = 0; i < blocks_in(n, NIBBLE_BLOCK); i++) {
            float scale = float_of_bf16(half_at(payload + 2 * i));
            valid &= scale >= 0.0f && scale <= SCALE_MAX;
        }
    return valid;
}

CLONES double diloco_square(const float *x, int64_t count)
{
    double square = 0;
    for (int64_t at = 0; at < count; at += BLOCK)
        square += square_of(x + at, least_of(BLOCK, count - at));
    return square;
}

static int usable(int format, int64_t n, int64_t size)
{
    return format >= 0 && format < NUM_FORMATS && n >= 0 && n <= INT64_MAX / 8 && size == size_of(format, n);
}

/* Blocks are computed whole before they are written, since outputs may be inputs. */
INLINE double subtract_block(const float *a, const float *b, float *out, int64_t count)
{
    float parts[BLOCK];
    for (int64_t i = 0; i < count; i++)
        parts[i] = a[i] - b[i];
    memcpy(out, parts, 4 * (size_t)count);
    return square_of(parts, count);
}

CLONES double diloco_subtract_range(const float *a, const float *b, float *out, int64_t n)
{
    int64_t whole = n / BLOCK * BLOCK;
    double square = 0;
    for (int64_t at = 0; at < whole; at += BLOCK)
        square += subtract_block(a + at, b + at, out + at, BLOCK);
    return square + subtract_block(a + whole, b + whole, out + whole, n - whole);
}

/* Equal bits everywhere: six operations, each rounded by itself. */
INLINE void nesterov_block(
    const float *theta, const float *buffer, const float *delta, float lr, float momentum, float *new_theta,
    float *new_buffer, int64_t count)
{
    float moved[BLOCK], kept[BLOCK];
    for (int64_t i = 0; i < count; i++) {
        kept[i] = buffer[i] * momentum + delta[i];
        moved[i] = theta[i] - (kept[i] * momentum + delta[i]) * lr;
    }
    memcpy(new_buffer, kept, 4 * (size_t)count);
    memcpy(new_theta, moved, 4 * (size_t)count);
}

CLONES void diloco_nesterov_range(
    const float *theta, const float *buffer, const float *delta, float lr, float momentum, float *new_theta,
    float *new_buffer, int64_t n)
{
    int64_t at = 0;
    for (; at <= n - BLOCK; at += BLOCK)
        nesterov_block(theta + at, buffer + at, delta + at, lr, momentum, new_theta + at, new_buffer + at, BLOCK);
    nesterov_block(theta + at, buffer + at, delta + at, lr, momentum, new_theta + at, new_buffer + at, n - at);
}

/* -- what is exported: each gives TAKEN, REFUSED for values that are not finite, or MISUSED ----------------------- */

EXPORTED int diloco_kernels_version(void) { return 3; }

/* Which copy of the functions this processor runs. */
EXPORTED const char *diloco_kernels_target(void)
{
#ifdef NEWEST
    __builtin_cpu_init();
    return __builtin_cpu_supports(NEWEST) ? NEWEST : __builtin_cpu_supports("avx2") ? "avx2" : "sse2";
#else
    return "one for all processors";
#endif
}

/* Fills out [size] with the payload of x [n]. They may be the same memory with FP32. */
EXPORTED int diloco_encode(int format, const float *x, int64_t n, uint8_t *out, int64_t size)
{
    if (!usable(format, n, size))
        return MISUSED;
    return diloco_encode_range(format, x, n, out, n, 0) ? REFUSED : TAKEN;
}

/* total [n] += weight * the decoded payload [size]; with `first`, total = that, whatever it was. `square` is the
   squared norm of what was decoded. A payload of FP32 may be the memory of total. */
EXPORTED int diloco_add(
    int format, float *total, int64_t n, const uint8_t *payload, int64_t size, float weight, int first,
    double *square)
{
    if (!usable(format, n, size))
        return MISUSED;
    if (!scales_valid(format, payload, n))
        return REFUSED;
    *square = diloco_add_range(format, total, n, payload, n, 0, weight, first);
    return is_finite(*square) ? TAKEN : REFUSED;
}

struct part {
    const uint8_t *payload; /* of n elements, or */
    const float *values;    /* n values that did not travel, if there is no payload */
    double square;          /* gets the squared norm of what was decoded, 0 if nothing was */
    float weight;
};

/* The payload [mean_size] of the weighted sum of parts, in their order, what it decodes to [n], and the squared norm of
   that. Of FP32 both may be the same memory. */
EXPORTED int diloco_reduce(
    int format, struct part *parts, int64_t num_parts, int64_t size, int64_t n, int mean_format, uint8_t *mean,
    int64_t mean_size, float *decoded, double *square)
{
    float total[TILE];
    int in_place = mean == (uint8_t *)decoded;
    if (!usable(format, n, size) || !usable(mean_format, n, mean_size) || num_parts < 1)
        return MISUSED;
    if (in_place && mean_format != FP32)
        return MISUSED;
    for (int64_t i = 0; i < num_parts; i++) {
        parts[i].square = 0;
        if (parts[i].payload && !scales_valid(format, parts[i].payload, n))
            return REFUSED;
    }
    *square = 0;
    for (int64_t start = 0; start < n; start += TILE) {
        int64_t count = least_of(TILE, n - start);
        /* What decodes to itself is added up where it is to lie. */
        float *sums = mean_format == FP32 ? decoded + start : total;
        for (int64_t i = 0; i < num_parts; i++) {
            struct part *part = parts + i;
            if (part->payload)
                part->square +=
                    diloco_add_range(format, sums, count, part->payload, n, start, part->weight, i == 0);
            else
                diloco_add_values(sums, part->values + start, count, part->weight, i == 0);
            if (!is_finite(part->square))
                return REFUSED;
        }
        if (in_place)
            *square += diloco_square(sums, count);
        else if (diloco_encode_range(mean_format, sums, count, mean, n, start))
            return REFUSED;
        else
            *square += diloco_add_range(mean_format, decoded + start, count, mean, n, start, 1.0f, 1);
        if (!is_finite(*square))
            return REFUSED;
    }
    return TAKEN;
}

/* out = a - b, all [n], and may be one of them. `square` is its squared norm: not finite if and only if a value of
   it is not. */
EXPORTED int diloco_subtract(const float *a, const float *b, float *out, int64_t n, double *square)
{
    if (n < 0)
        return MISUSED;
    *square = diloco_subtract_range(a, b, out, n);
    return TAKEN;
}

/* One step of SGD with Nesterov momentum, all [n]; what is new may be the memory of what was:
   buffer' = momentum * buffer + delta,  theta' = theta - lr * (momentum * buffer' + delta). */
EXPORTED int diloco_nesterov(
    const float *theta, const float *buffer, const float *delta, float lr, float momentum, float *new_theta,
    float *new_buffer, int64_t n)
{
    if (n < 0)
        return MISUSED;
    diloco_nesterov_range(theta, buffer, delta, lr, momentum, new_theta, new_buffer, n);
    return TAKEN;
}
