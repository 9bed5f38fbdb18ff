// The button and the key that one talks with: held, it listens as long as it is held; tapped,
// until it is tapped again.

const TAP_MS = 350;

// `begin()`, `end()`: to start and stop listening; `talking()`: whether it does.
export function createTalk(button, { begin, end, talking }) {
  let pressed = null; // when, and whether this press began the talk

  // Times are the events' own: a page that is busy hears of them late.
  function down({ timeStamp }) {
    if (pressed) return;
    pressed = { at: timeStamp, began: !talking() };
    if (pressed.began) begin();
  }

  function up({ timeStamp }) {
    if (!pressed) return;
    const { at, began } = pressed;
    pressed = null;
    if (!began || timeStamp - at > TAP_MS) end();
  }

  button.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    button.setPointerCapture(event.pointerId);
    down(event);
  });
  button.addEventListener("pointerup", up);
  button.addEventListener("pointercancel", up);
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  button.addEventListener("blur", up);
  // What presses without a pointer: Enter, a screen reader, a voice.
  button.addEventListener("click", (event) => {
    if (event.detail) return;
    if (talking()) end();
    else begin();
  });
  button.addEventListener("keydown", (event) => event.key === " " && event.preventDefault());
  button.addEventListener("keyup", (event) => event.key === " " && event.preventDefault());
  return { down, up };
}

// Whether a key belongs to the control that has the focus.
export function isOwnUse({ target, key }) {
  if (target.closest("textarea, select, input:not([type=radio]), summary, a, label")) return true;
  return Boolean(target.closest("button, [role=radio], input")) && target.id !== "talk" && key === " ";
}
