"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const table = $("models");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const original = [...body.rows];
  const marks = [...document.querySelectorAll(".mark")];
  const chosen = new Set(); // models that were clicked
  // The state of the page is its address, so that a view can be sent to somebody.
  let state = { q: "", sort: null, down: false };

  const nameOf = (row) => row.cells[0].textContent;
  const number = (text) => parseFloat((text.match(/^-?[\d.]+/) || [NaN])[0]);

  const compare = (column) => (a, b) => {
    const [x, y] = [a, b].map((row) => row.cells[column].textContent.trim());
    const [m, n] = [number(x), number(y)];
    const empty = (text) => Number(text === "-" || text === "");
    if (empty(x) || empty(y)) return empty(x) - empty(y); // gaps come last either way
    const order = Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
    return state.down ? -order : order;
  };

  const show = () => {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...original];
    if (state.sort !== null) rows.sort(compare(state.sort));
    body.replaceChildren(...rows);
    const found = new Set();
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      row.classList.toggle("chosen", chosen.has(nameOf(row)));
      if (!row.hidden) found.add(nameOf(row));
    }
    const bright = chosen.size ? chosen : found;
    document.body.classList.toggle("choosing", chosen.size > 0 || words.length > 0);
    for (const mark of marks) mark.classList.toggle("chosen", bright.has(mark.dataset.entry));
    heads.forEach((head, i) => {
      if (i === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    $("count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    $("clear").hidden = chosen.size === 0;
    if ($("filter").value !== state.q) $("filter").value = state.q;
  };

  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const sort = parseInt(given.get("sort"), 10);
    const known = sort >= 0 && sort < heads.length;
    state = { q: given.get("q") || "", sort: known ? sort : null, down: given.has("down") };
    show();
  };

  const write = () => {
    const given = new URLSearchParams();
    if (state.q) given.set("q", state.q);
    if (state.sort !== null) given.set("sort", state.sort);
    if (state.down) given.set("down", "");
    history.replaceState(null, "", `#${given}`);
    show();
  };

  const choose = (name) => {
    if (!chosen.delete(name)) chosen.add(name);
    show();
  };

  heads.forEach((head, i) => {
    const sort = () => {
      state.down = state.sort === i && !state.down;
      state.sort = i;
      write();
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
  });

  // The main columns are shown at first, and only two of them where the screen is narrow.
  const main = heads.slice(1).filter((head) => "main" in head.dataset);
  const shown = new Set(innerWidth < 640 ? main.slice(0, 2) : main);
  heads.slice(1).forEach((head, i) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox" });
    const label = document.createElement("label");
    label.append(box, ` ${head.textContent}`);
    $("columns").querySelector("p").append(label);
    const update = () => {
      for (const row of [head.parentNode, ...original]) row.cells[i + 1].hidden = !box.checked;
    };
    box.checked = shown.has(head);
    box.addEventListener("change", update);
    update();
  });

  for (const mark of marks) {
    const title = mark.querySelector("title");
    const text = title.textContent;
    title.remove(); // the browser would show it beside ours
    mark.setAttribute("aria-label", text);
    const same = marks.filter((other) => other.dataset.entry === mark.dataset.entry);
    mark.addEventListener("pointermove", (event) => {
      const tip = $("tip");
      tip.textContent = text;
      tip.hidden = false;
      const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4);
      tip.style.left = `${Math.max(left, 4)}px`;
      tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 8, 4)}px`;
      for (const other of same) other.classList.add("same");
    });
    mark.addEventListener("pointerleave", () => {
      $("tip").hidden = true;
      for (const other of same) other.classList.remove("same");
    });
    mark.addEventListener("click", () => choose(mark.dataset.entry));
  }
  for (const row of original) row.addEventListener("click", () => choose(nameOf(row)));
  $("clear").addEventListener("click", () => {
    chosen.clear();
    show();
  });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("filter").addEventListener("input", () => {
    state.q = $("filter").value;
    write();
  });
  addEventListener("hashchange", read);
  read();
})();
