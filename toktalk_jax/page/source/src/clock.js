// The time that is heard. The sound element leads; where it may not or cannot play (autoplay
// rules, no device), the wall clock takes over, so that the face always moves.

const START_GRACE_MS = 250; // how long a starting sound may take before the face goes on
const STALL_MS = 600;

export function createClock(audio, duration, report) {
  let playing = false;
  let heard = false; // the sound element is the clock
  let rate = 1;
  let base = 0;
  let since = 0;
  let lastHeard = 0;
  let lastMove = 0;
  let attempt = 0;

  const clamp = (t) => Math.min(Math.max(t, 0), duration);
  const onWall = () => base + (Math.max(performance.now() - since, 0) / 1000) * rate;

  function position() {
    if (!playing) return base;
    if (heard) {
      const now = performance.now();
      if (audio.currentTime !== lastHeard || audio.ended) {
        lastHeard = audio.currentTime;
        lastMove = now;
        return clamp(lastHeard);
      }
      if (now - lastMove < STALL_MS) return clamp(lastHeard);
      heard = false;
      base = lastHeard;
      since = now;
    }
    return clamp(onWall());
  }

  function startSound() {
    const mine = ++attempt;
    audio.playbackRate = rate;
    audio.currentTime = base;
    audio.play().then(
      () => {
        if (mine !== attempt || !playing) return;
        const at = position();
        if (Math.abs(audio.currentTime - at) > 0.05) audio.currentTime = at;
        heard = true;
        lastHeard = -1;
        lastMove = performance.now();
        report("");
      },
      (error) => {
        if (mine !== attempt || !playing) return;
        report(
          error.name === "NotAllowedError"
            ? "The browser holds the sound back: click or tap anywhere to hear it."
            : "The sound does not play in this browser.",
        );
      },
    );
  }

  function play() {
    if (playing) return;
    if (base >= duration - 1e-3) base = 0;
    playing = true;
    heard = false;
    since = performance.now() + START_GRACE_MS;
    startSound();
  }

  function pause() {
    if (!playing) return;
    base = position();
    playing = false;
    heard = false;
    attempt++;
    audio.pause();
    report("");
  }

  function seek(t) {
    base = clamp(Number(t) || 0);
    if (playing) {
      heard = false;
      since = performance.now() + START_GRACE_MS;
      startSound();
    } else {
      audio.currentTime = base;
    }
  }

  function setRate(value) {
    const at = position();
    rate = value;
    base = at;
    since = performance.now();
    audio.playbackRate = value;
  }

  // A gesture lifts autoplay rules: bring the sound in where the face already is.
  function gesture() {
    if (!playing || heard || !audio.paused) return;
    base = position();
    since = performance.now();
    startSound();
  }

  return {
    position,
    play,
    pause,
    seek,
    setRate,
    gesture,
    get playing() {
      return playing;
    },
    get heard() {
      return playing && heard;
    },
  };
}
