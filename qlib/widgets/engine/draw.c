// The images of the bench `digits`, byte for byte as qlib/benches/digits.py draws them: PCG64's raw words, then float64
// operations in the same order.
#define EXPORT(name) __attribute__((export_name(#name)))
typedef unsigned long long word64;

enum { CHUNK = 500, SIZE = 48, MARGIN = 24, WIDE = SIZE + 2 * MARGIN + 1, FRAGMENTS = 6, GLYPHS = 1797, PAD = 12 };
enum { PICK, X, Y, HALF, TANGENT, SHEAR, CONTRAST, FIRST, QUARTER, PARTS };

static unsigned char glyphs[GLYPHS * 64], digits[GLYPHS], image[SIZE * SIZE];
static int pool[GLYPHS];
static double stamps[2 + FRAGMENTS][PARTS][CHUNK], brightness[CHUNK], canvas[WIDE * WIDE];
static word64 high, low, increment_high, increment_low; // the generator's

EXPORT(glyphs_at) void *glyphs_at(void) { return glyphs; }
EXPORT(digits_at) void *digits_at(void) { return digits; }
EXPORT(pool_at) void *pool_at(void) { return pool; }
EXPORT(image_at) void *image_at(void) { return image; }

static void multiply(word64 a, word64 b, word64 *over, word64 *product) { // 64 x 64 to 128 bits
  word64 a0 = (unsigned)a, a1 = a >> 32, b0 = (unsigned)b, b1 = b >> 32;
  word64 lowest = a0 * b0, middle = a1 * b0 + (lowest >> 32), other = a0 * b1 + (unsigned)middle;
  *over = a1 * b1 + (middle >> 32) + (other >> 32);
  *product = (other << 32) | (unsigned)lowest;
}

static word64 next(void) { // PCG XSL RR 128/64
  const word64 by_high = 2549297995355413924ULL, by_low = 4865540595714422341ULL;
  word64 over, product;
  multiply(low, by_low, &over, &product);
  over += high * by_low + low * by_high;
  low = product + increment_low;
  high = over + increment_high + (low < product);
  word64 mixed = high ^ low;
  int turn = high >> 58;
  return (mixed >> turn) | (mixed << ((-turn) & 63));
}

static void uniform(double *to, double from, double end) {
  double span = end - from;
  for (int i = 0; i < CHUNK; i++) to[i] = from + span * ((double)(next() >> 11) * 0x1p-53);
}

static void whole(double *to, double bound) {
  uniform(to, 0, bound);
  for (int i = 0; i < CHUNK; i++) to[i] = (double)(int)to[i];
}

// What a chunk's images are made of, from the generator's state; `n` glyphs are in the pool.
EXPORT(begin) void begin(word64 state_high, word64 state_low, word64 step_high, word64 step_low, int n) {
  high = state_high, low = state_low, increment_high = step_high, increment_low = step_low;
  for (int k = 0; k < 2 + FRAGMENTS; k++) {
    double(*part)[CHUNK] = stamps[k];
    int fragment = k >= 2;
    whole(part[PICK], n);
    if (fragment) whole(part[FIRST], 5);
    uniform(part[X], fragment ? 0 : -3, fragment ? SIZE : 3);
    uniform(part[Y], fragment ? 0 : -6, fragment ? SIZE : 6);
    uniform(part[HALF], fragment ? 6 : 8, fragment ? 10 : 12);
    uniform(part[TANGENT], fragment ? -0.414 : -0.175, fragment ? 0.414 : 0.175);
    if (fragment) whole(part[QUARTER], 4);
    uniform(part[SHEAR], -0.2, 0.2);
    uniform(part[CONTRAST], fragment ? 0.3 : 0.6, fragment ? 0.9 : 1);
  }
  uniform(brightness, 0.6, 1);
}

static double clip(double v, double least, double most) { return v < least ? least : v > most ? most : v; }

static void stamp(double part[PARTS][CHUNK], int i, double x, double y, int fragment) {
  const unsigned char *glyph = glyphs + 64 * pool[(int)part[PICK][i]];
  double padded[PAD * PAD] = {0};
  int first = fragment ? (int)part[FIRST][i] : 0, end = fragment ? first + 3 : 8; // three rows of a glyph
  for (int r = first; r < end; r++)
    for (int c = 0; c < 8; c++) padded[(r + 2) * PAD + c + 2] = glyph[r * 8 + c] / 16.0;
  double half = part[HALF][i], tangent = part[TANGENT][i], square = tangent * tangent;
  double cos0 = (1 - square) / (1 + square), sin0 = 2 * tangent / (1 + square);
  double cosines[] = {cos0, -sin0, -cos0, sin0}, sines[] = {sin0, cos0, -sin0, -cos0};
  int quarter = fragment ? (int)part[QUARTER][i] : 0;
  double cos = cosines[quarter], sin = sines[quarter], slant = sin + part[SHEAR][i];
  int left = (int)__builtin_floor(x) - MARGIN, top = (int)__builtin_floor(y) - MARGIN;
  for (int j = 0; j < 2 * MARGIN + 1; j++) {
    double dy = (top + j + 0.5 - y) / half, *row = canvas + (top + j + MARGIN) * WIDE + left + MARGIN;
    for (int k = 0; k < 2 * MARGIN + 1; k++) {
      double dx = (left + k + 0.5 - x) / half;
      // Outside the glyph the padding is met, whose ink is 0
      double u = clip(4 * (cos * dx + slant * dy) + 3.5 + 2, 0, 10.5), v = clip(4 * (cos * dy - sin * dx) + 3.5 + 2, 0, 10.5);
      int column = (int)u, line = (int)v;
      const double *p = padded + line * PAD + column;
      u -= column, v -= line;
      double upper = p[0] * (1 - u) + p[1] * u, lower = p[PAD] * (1 - u) + p[PAD + 1] * u;
      double ink = (upper * (1 - v) + lower * v) * part[CONTRAST][i];
      if (ink > row[k]) row[k] = ink;
    }
  }
}

// Draws image `i` of the chunk and returns its label. Noise comes image by image, so they are drawn in order.
EXPORT(draw) int draw(int i) {
  const double centre[] = {0.3 * SIZE, 0.7 * SIZE}, spread = __builtin_sqrt(4 * (65536 - 1) / 12.0);
  int label = 0;
  for (int j = 0; j < WIDE * WIDE; j++) canvas[j] = 0;
  for (int k = 0; k < 2 + FRAGMENTS; k++) {
    double(*part)[CHUNK] = stamps[k];
    if (k < 2) label = 10 * label + digits[pool[(int)part[PICK][i]]];
    stamp(part, i, k < 2 ? centre[k] + part[X][i] : part[X][i], k < 2 ? SIZE / 2 + part[Y][i] : part[Y][i], k >= 2);
  }
  word64 bits = 0;
  for (int j = 0; j < SIZE * SIZE; j++) {
    bits = j % 2 ? bits >> 32 : next();
    unsigned four = (unsigned)bits;
    double noise = ((int)((four & 255) + (four >> 8 & 255) + (four >> 16 & 255) + (four >> 24)) - 510) / spread;
    double grey = canvas[(j / SIZE + MARGIN) * WIDE + j % SIZE + MARGIN] * brightness[i] + 0.2 * noise;
    image[j] = (unsigned char)clip(__builtin_rint(64 + 128 * grey), 0, 255);
  }
  return label;
}
