"use strict";
(() => {
  const table = document.getElementById("measured");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const filter = document.getElementById("filter");
  const count = document.getElementById("count");
  const original = [...body.rows];
  // The state of the page is its address, so that a view can be sent to somebody.
  let state = { q: "", sort: null, down: false };

  const number = (text) => {
    const found = text.match(/^-?[\d.]+/);
    return found ? parseFloat(found[0]) : NaN;
  };

  const compare = (column) => (a, b) => {
    const [x, y] = [a, b].map((row) => row.cells[column].textContent.trim());
    const [m, n] = [number(x), number(y)];
    const gaps = Number(x.startsWith("- ") || x === "-") - Number(y.startsWith("- ") || y === "-");
    if (gaps) return gaps * (state.down ? -1 : 1); // gaps come last either way
    return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
  };

  const show = () => {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...original];
    if (state.sort !== null) {
      rows.sort(compare(state.sort));
      if (state.down) rows.reverse();
    }
    body.replaceChildren(...rows);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += Number(!row.hidden);
    }
    heads.forEach((head, i) => {
      if (i === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    count.textContent = `${shown} of ${rows.length}`;
    if (filter.value !== state.q) filter.value = state.q;
  };

  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const sort = parseInt(given.get("sort"), 10);
    state = {
      q: given.get("q") || "",
      sort: sort >= 0 && sort < heads.length ? sort : null,
      down: given.has("down"),
    };
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

  const sortBy = (i) => {
    state.down = state.sort === i && !state.down;
    state.sort = i;
    write();
  };

  heads.forEach((head, i) => {
    head.tabIndex = 0;
    head.addEventListener("click", () => sortBy(i));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sortBy(i);
      }
    });
  });
  filter.addEventListener("input", () => {
    state.q = filter.value;
    write();
  });
  addEventListener("hashchange", read);
  read();
})();
