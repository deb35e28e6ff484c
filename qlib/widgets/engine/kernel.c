// A network's operations on blocks of 8 images. A map is [row][column][channel][8 images] in float32: images lie in the
// lanes, so every operation is the same for all lanes, borders and strides cost nothing, and one input channel is as
// good as 64.
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name))) void name
typedef v128_t lanes; // of 4 images: half a block

static const int BLOCK = 8, GRID = 5 * 8;

static inline lanes load(const float *at) { return wasm_v128_load(at); }
static inline void store(float *at, lanes v) { wasm_v128_store(at, v); }
static inline lanes all(float v) { return wasm_f32x4_splat(v); }
static inline lanes add_product(lanes sum, lanes w, lanes x) { return wasm_f32x4_add(sum, wasm_f32x4_mul(w, x)); }
static inline lanes between(lanes low, lanes v, lanes high) { return wasm_f32x4_pmin(high, wasm_f32x4_pmax(low, v)); }
static inline lanes rectified(lanes v, int relu) { return relu ? wasm_f32x4_pmax(all(0), v) : v; }

static inline lanes high_half(lanes v) { return wasm_i32x4_shuffle(v, v, 2, 3, 0, 1); }
static inline lanes fused(lanes sum, lanes w, lanes x) { // of w in float64
  lanes low = wasm_f64x2_add(wasm_f64x2_promote_low_f32x4(sum), wasm_f64x2_mul(w, wasm_f64x2_promote_low_f32x4(x)));
  lanes high = wasm_f64x2_add(wasm_f64x2_promote_low_f32x4(high_half(sum)),
                              wasm_f64x2_mul(w, wasm_f64x2_promote_low_f32x4(high_half(x))));
  return wasm_i64x2_shuffle(wasm_f32x4_demote_f64x2_zero(low), wasm_f32x4_demote_f64x2_zero(high), 0, 2);
}

// y = conv(x) + bias, then max(0, y) if relu. weight: [out / 4][size][size][in][4].
EXPORT(conv)(const float *x, const float *weight, const float *bias, float *y, int rows_in, int columns_in, int in,
             int rows_out, int columns_out, int out, int size, int stride, int pad, int relu) {
  for (int o = 0; o < out; o += 4, weight += size * size * in * 4)
    for (int r = 0; r < rows_out; r++)
      for (int c = 0; c < columns_out; c++) {
        int top = r * stride - pad, first_row = top < 0 ? -top : 0, end_row = top + size > rows_in ? rows_in - top : size;
        int left = c * stride - pad, first = left < 0 ? -left : 0, end = left + size > columns_in ? columns_in - left : size;
        lanes sum[4][2];
        for (int j = 0; j < 4; j++) sum[j][0] = sum[j][1] = all(bias[o + j]);
        for (int k = first_row; k < end_row; k++) {
          const float *p = x + ((top + k) * columns_in + left + first) * in * BLOCK;
          const float *w = weight + (k * size + first) * in * 4;
          for (const float *last = w + (end - first) * in * 4; w != last; p += BLOCK, w += 4) {
            lanes x0 = load(p), x1 = load(p + 4);
            for (int j = 0; j < 4; j++) {
              lanes v = wasm_v128_load32_splat(w + j);
              sum[j][0] = add_product(sum[j][0], v, x0);
              sum[j][1] = add_product(sum[j][1], v, x1);
            }
          }
        }
        float *to = y + ((r * columns_out + c) * out + o) * BLOCK;
        for (int j = 0; j < 4; j++)
          for (int h = 0; h < 2; h++) store(to + j * BLOCK + 4 * h, rectified(sum[j][h], relu));
      }
}

// The same with every product and sum rounded once together, as torch's fused instructions do it, and in its order: for
// ranges, whose last digit decides about sums that lie between two codes. Slower.
EXPORT(conv_fused)(const float *x, const float *weight, const float *bias, float *y, int rows_in, int columns_in, int in,
                   int rows_out, int columns_out, int out, int size, int stride, int pad, int relu) {
  int bias_last = in >= 16 && size > 1;
  for (int o = 0; o < out; o++) {
    const float *own = weight + (o / 4) * size * size * in * 4 + o % 4;
    for (int r = 0; r < rows_out; r++)
      for (int c = 0; c < columns_out; c++) {
        lanes first = all(bias_last ? 0 : bias[o]), last = all(bias_last ? bias[o] : 0), sum[2] = {first, first};
        for (int k = 0; k < size; k++)
          for (int l = 0; l < size; l++) {
            int row = r * stride - pad + k, column = c * stride - pad + l;
            if (row < 0 || row >= rows_in || column < 0 || column >= columns_in) continue;
            const float *p = x + (row * columns_in + column) * in * BLOCK, *w = own + (k * size + l) * in * 4;
            for (int i = 0; i < in; i++, p += BLOCK, w += 4)
              for (int h = 0; h < 2; h++) sum[h] = fused(sum[h], wasm_f64x2_splat(*w), load(p + 4 * h));
          }
        float *to = y + ((r * columns_out + c) * out + o) * BLOCK;
        for (int h = 0; h < 2; h++) store(to + 4 * h, rectified(wasm_f32x4_add(sum[h], last), relu));
      }
  }
}

EXPORT(add)(const float *a, const float *b, float *y, int n, int relu) {
  for (int i = 0; i < n; i += 4) store(y + i, rectified(wasm_f32x4_add(load(a + i), load(b + i)), relu));
}

EXPORT(relu)(const float *x, float *y, int n) {
  for (int i = 0; i < n; i += 4) store(y + i, rectified(load(x + i), 1));
}

EXPORT(maxpool)(const float *x, float *y, int rows_in, int columns_in, int channels, int rows_out, int columns_out,
                int size, int stride, int pad) {
  for (int r = 0; r < rows_out; r++)
    for (int c = 0; c < columns_out; c++)
      for (int i = 0; i < channels * BLOCK; i += 4) {
        lanes most = all(-__builtin_inff());
        int top = r * stride - pad, left = c * stride - pad;
        for (int k = top; k < top + size; k++)
          for (int l = left; l < left + size; l++)
            if (k >= 0 && k < rows_in && l >= 0 && l < columns_in)
              most = wasm_f32x4_pmax(most, load(x + (k * columns_in + l) * channels * BLOCK + i));
        store(y + (r * columns_out + c) * channels * BLOCK + i, most);
      }
}

EXPORT(mean)(const float *x, float *y, int pixels, int channels) {
  for (int i = 0; i < channels * BLOCK; i += 4) {
    lanes sum = load(x + i);
    for (int p = 1; p < pixels; p++) sum = wasm_f32x4_add(sum, load(x + p * channels * BLOCK + i));
    store(y + i, wasm_f32x4_div(sum, all((float)pixels)));
  }
}

// A grid holds five rows of 8 lanes: 1 / scale, lowest and highest code counted from the zero-point, scale, zero-point.
// `period` of them are used in turn, for channels: 1 where all share one. On the grid `authors` the second and the
// third row are the ends at which values are clamped in float before they are rounded.
enum { INVERSE = 0, LOW = 8, HIGH = 16, SCALE = 24, ZERO = 32 };

EXPORT(quantize)(const float *x, float *y, int n, int period, const float *grids, int authors) {
  for (int i = 0; i < n; i += period * BLOCK) {
    const float *g = grids;
    for (int c = 0; c < period; c++, g += GRID)
      for (int h = 0; h < BLOCK; h += 4, x += 4, y += 4) {
        lanes low = load(g + LOW + h), high = load(g + HIGH + h), scale = load(g + SCALE + h);
        lanes code = authors ? wasm_f32x4_nearest(wasm_f32x4_div(between(low, load(x), high), scale))
                             : between(low, wasm_f32x4_nearest(wasm_f32x4_mul(load(x), load(g + INVERSE + h))), high);
        store(y, wasm_f32x4_mul(code, scale));
      }
  }
}

// Codes counted from the zero-point, of values that are on the grid.
EXPORT(codes)(const float *x, float *y, int n, int period, const float *grids) {
  for (int i = 0; i < n; i += period * BLOCK)
    for (int c = 0; c < period; c++)
      for (int h = 0; h < BLOCK; h += 4, x += 4, y += 4)
        store(y, wasm_f32x4_nearest(wasm_f32x4_mul(load(x), load(grids + c * GRID + INVERSE + h))));
}

// The values of means of such codes, rounded.
EXPORT(values)(const float *x, float *y, int n, int period, const float *grids) {
  for (int i = 0; i < n; i += period * BLOCK)
    for (int c = 0; c < period; c++)
      for (int h = 0; h < BLOCK; h += 4, x += 4, y += 4) {
        lanes zero = load(grids + c * GRID + ZERO + h), code = wasm_f32x4_nearest(wasm_f32x4_add(load(x), zero));
        store(y, wasm_f32x4_mul(wasm_f32x4_sub(code, zero), load(grids + c * GRID + SCALE + h)));
      }
}

// Smallest and largest value of every lane, by channel. found: [period][2][8]
EXPORT(ends)(const float *x, int n, int period, float *found) {
  for (int c = 0; c < period; c++)
    for (int h = 0; h < BLOCK; h += 4) {
      lanes low = load(x + c * BLOCK + h), high = low;
      for (int i = (c + period) * BLOCK; i < n; i += period * BLOCK) {
        lanes v = load(x + i + h);
        low = wasm_f32x4_pmin(low, v);
        high = wasm_f32x4_pmax(high, v);
      }
      store(found + c * 2 * BLOCK + h, low);
      store(found + c * 2 * BLOCK + BLOCK + h, high);
    }
}

// A channel of images `first` to `end` of blocks of n numbers, one value after the other.
EXPORT(gather)(const float *x, int n, int period, int channel, int first, int end, float *to) {
  for (int block = first / BLOCK; block * BLOCK < end; block++) {
    const float *from = x + block * n;
    int left = first > block * BLOCK ? first - block * BLOCK : 0, right = end - block * BLOCK;
    if (right > BLOCK) right = BLOCK;
    for (int i = channel * BLOCK; i < n; i += period * BLOCK)
      for (int lane = left; lane < right; lane++) *to++ = from[i + lane];
  }
}

// Counts n values in `bins` bins between -extent and extent.
EXPORT(histogram)(const float *x, int n, float extent, int bins, double *counts) {
  float width = extent + extent;
  for (int i = 0; i < n; i++) {
    int bin = (int)((x[i] + extent) * (float)bins / width);
    counts[bin == bins ? bins - 1 : bin]++;
  }
}

// The sum of n values of every lane in float64, by channel. found: [period][8]
EXPORT(sums)(const float *x, int n, int period, double *found) {
  for (int c = 0; c < period; c++)
    for (int l = 0; l < BLOCK; l++) {
      double sum = 0;
      for (int i = c * BLOCK + l; i < n; i += period * BLOCK) sum += x[i];
      found[c * BLOCK + l] = sum;
    }
}

// The squared error of n values (a multiple of 4) on one grid, weighted where there are weights.
__attribute__((export_name("error"))) double error(const float *x, const double *weight, int n, float inverse, float low,
                                                   float high, float scale, int authors) {
  lanes total0 = wasm_f64x2_splat(0), total1 = total0;
  for (int i = 0; i < n; i += 4) {
    lanes v = load(x + i);
    lanes code = authors ? wasm_f32x4_nearest(wasm_f32x4_div(between(all(low), v, all(high)), all(scale)))
                         : between(all(low), wasm_f32x4_nearest(wasm_f32x4_mul(v, all(inverse))), all(high));
    lanes off = wasm_f32x4_sub(wasm_f32x4_mul(code, all(scale)), v), square = wasm_f32x4_mul(off, off);
    lanes first = wasm_f64x2_promote_low_f32x4(square);
    lanes second = wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(square, square, 2, 3, 0, 1));
    if (weight) {
      first = wasm_f64x2_mul(first, wasm_v128_load(weight + i));
      second = wasm_f64x2_mul(second, wasm_v128_load(weight + i + 2));
    }
    total0 = wasm_f64x2_add(total0, first);
    total1 = wasm_f64x2_add(total1, second);
  }
  lanes total = wasm_f64x2_add(total0, total1);
  return wasm_f64x2_extract_lane(total, 0) + wasm_f64x2_extract_lane(total, 1);
}
