// The info column: plain values as a list, groups of values as sections, groups of groups
// as tables. All text goes in as text, never as markup.

const isGroup = (value) => value !== null && typeof value === "object";

export function fillInfo(place, info) {
  const plain = Object.entries(info).filter(([, value]) => !isGroup(value));
  const sections = Object.entries(info).filter(([, value]) => isGroup(value));
  if (plain.length) place.append(card("This take", list(plain)));
  for (const [title, group] of sections) {
    const rows = Object.entries(group);
    const body = rows.length && rows.every(([, row]) => isGroup(row)) ? grid(rows) : list(rows);
    place.append(card(title, body));
  }
  if (!place.children.length) place.remove();
}

function element(tag, text, children = []) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function card(title, body) {
  return element("section", null, [element("h2", title), body]);
}

function list(entries) {
  const rows = entries.map(([name, value]) =>
    element("div", null, [element("dt", name), element("dd", shown(value))]),
  );
  return element("dl", null, rows);
}

function grid(rows) {
  const columns = [...new Set(rows.flatMap(([, row]) => Object.keys(row)))];
  const head = element("tr", null, [
    element("th", ""),
    ...columns.map((name) => {
      const cell = element("th", name);
      cell.scope = "col";
      return cell;
    }),
  ]);
  const body = rows.map(([name, row]) => {
    const first = element("th", name);
    first.scope = "row";
    return element("tr", null, [first, ...columns.map((c) => element("td", shown(row[c])))]);
  });
  const table = element("table", null, [
    element("thead", null, [head]),
    element("tbody", null, body),
  ]);
  const scroller = element("div", null, [table]);
  scroller.className = "scroller";
  scroller.tabIndex = 0;
  return scroller;
}

function shown(value) {
  if (value === undefined || value === null) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return isGroup(value) ? JSON.stringify(value) : String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}
