// The images of the bench, drawn here one after the other, each once.
const CHUNK = 500; // as in draw.c

/** A function from the name of a stream and a number to {images, labels, pixels}, of which the first `n` are drawn by then. */
export function drawer(module, file) {
  const streams = {};
  return (name, n) => {
    streams[name] ??= new Stream(module, file, name);
    streams[name].draw(n);
    return streams[name];
  };
}

class Stream {
  constructor(module, { size, glyphs, digits, order, training, states }, name) {
    const { exports: wasm } = new WebAssembly.Instance(module),
      memory = new Uint8Array(wasm.memory.buffer),
      bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)),
      split = new Uint16Array(bytes(order).buffer),
      pool = name === "validation" ? split.subarray(training) : split.subarray(0, training);
    memory.set(bytes(glyphs), wasm.glyphs_at());
    memory.set(bytes(digits), wasm.digits_at());
    new Int32Array(wasm.memory.buffer, wasm.pool_at(), pool.length).set(pool);
    const most = CHUNK * states[name].length,
      pixels = size * size;
    Object.assign(this, { wasm, memory, pixels, pool: pool.length, states: states[name], drawn: 0 });
    Object.assign(this, { images: new Uint8Array(most * pixels), labels: new Uint8Array(most) });
  }

  draw(n) {
    const { wasm, memory, pixels, states, labels } = this;
    if (n > labels.length) throw new Error(`there are ${labels.length} images here, and ${n} are asked for`);
    for (; this.drawn < n; this.drawn++) {
      const i = this.drawn % CHUNK;
      if (i === 0) wasm.begin(...states[this.drawn / CHUNK].map((word) => BigInt.asIntN(64, BigInt(word))), this.pool);
      labels[this.drawn] = wasm.draw(i);
      this.images.set(memory.subarray(wasm.image_at(), wasm.image_at() + pixels), this.drawn * pixels);
    }
  }
}
