// Runs on the sound thread: the microphone as blocks of 20 ms, i16 mono, each with the time
// of its first sample on the context's clock.

const BLOCK_S = 0.02;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(Math.round(BLOCK_S * sampleRate));
    this.filled = 0;
    this.open = true;
    this.port.onmessage = () => (this.open = false); // else it would run for ever
  }

  process([channels]) {
    const count = channels.length ? channels[0].length : 0;
    for (let i = 0; i < count; i++) {
      let value = 0;
      for (const channel of channels) value += channel[i] / channels.length;
      const scaled = Math.round(32768 * value);
      this.block[this.filled++] = Math.min(Math.max(scaled, -32768), 32767);
      if (this.filled === this.block.length) this.post(i + 1);
    }
    return this.open;
  }

  post(used) {
    const at = (currentFrame + used - this.block.length) / sampleRate;
    this.port.postMessage({ at, samples: this.block }, [this.block.buffer]);
    this.block = new Int16Array(Math.round(BLOCK_S * sampleRate));
    this.filled = 0;
  }
}

registerProcessor("microphone", Microphone);
