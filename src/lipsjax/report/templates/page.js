// What the page gains where scripts run: copy a command, sort a table, show or hide arms, read off
// curves. Without it the page is whole; nothing is fetched and nothing is kept.
"use strict";
(function () {
  function make(name, text, owner) {
    const node = document.createElement(name);
    node.textContent = text;
    if (name === "button") node.type = "button";
    if (owner) owner.append(node);
    return node;
  }

  // Copy a command.
  function copied(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = make("textarea", text, document.body);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? Promise.resolve() : Promise.reject(new Error("not copied"));
  }
  for (const block of document.querySelectorAll("[data-copy]")) {
    const button = make("button", "Copy");
    button.className = "copy";
    const said = make("span", "");
    said.setAttribute("role", "status");
    said.className = "small";
    block.after(button, " ", said);
    button.addEventListener("click", function () {
      copied(block.textContent.trim()).then(
        function () { said.textContent = "Copied."; },
        function () { said.textContent = "Please select the command and copy it."; }
      );
    });
  }

  // Sort a table by a column, each group of rows by itself.
  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = (cell.dataset.v || cell.textContent).trim().replace(/\u2212/g, "-");
    const number = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(number) ? text.toLowerCase() : number;
  }
  function compared(a, b) {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1; // what has no number comes last
  }
  function sort(table, column, sign) {
    for (const body of table.tBodies) {
      const rows = Array.from(body.rows).filter((row) => !row.classList.contains("cell"));
      rows.sort((a, b) => sign * compared(valueOf(a, column), valueOf(b, column)));
      body.append(...rows);
    }
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    if (Math.max(...Array.from(table.tBodies, (body) => body.rows.length)) < 3) continue;
    heads.forEach(function (head, column) {
      const button = make("button", "");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", function () {
        const way = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", way);
        sort(table, column, way === "ascending" ? 1 : -1);
      });
    });
  }

  // Show or hide the curves of an arm, in all figures at once.
  const rows = document.querySelectorAll(".toggles");
  for (const row of rows) {
    for (const [key, name] of JSON.parse(row.dataset.arms)) {
      if (!document.querySelector("svg ." + key)) continue;
      const button = make("button", name, row);
      button.dataset.arm = key;
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", function () { toggle(key); });
    }
    row.hidden = row.children.length < 2;
    row.prepend(make("span", "Show:"));
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", "Arms shown in figures");
  }
  function toggle(key) {
    const shown = document.querySelector('[data-arm="' + key + '"]').getAttribute("aria-pressed");
    const next = shown === "true" ? "false" : "true";
    for (const button of document.querySelectorAll('[data-arm="' + key + '"]')) {
      button.setAttribute("aria-pressed", next);
    }
    for (const mark of document.querySelectorAll("svg ." + key)) {
      mark.classList.toggle("away", next === "false");
    }
  }

  // Read values off curves: the point of each arm that is nearest to the pointer, left or right.
  function curvesOf(svg) {
    const found = [];
    for (const path of svg.querySelectorAll(".arm:not(.seed) > path")) {
      const d = path.getAttribute("d") || "";
      const numbers = d.match(/-?[\d.]+/g) || [];
      if (numbers.length < 6 || /[zZ]/.test(d)) continue; // a mark or an area, and no curve
      const points = [];
      for (let i = 0; i + 1 < numbers.length; i += 2) points.push([+numbers[i], +numbers[i + 1]]);
      const group = path.parentNode;
      const title = group.querySelector("title");
      found.push({ name: title ? title.textContent : "", points, group });
    }
    return found;
  }
  // From a place on an axis to its value: [first place, last place, first value, last value, log?]
  function read([start, end, low, high, isLog], place) {
    const share = (place - start) / (end - start);
    return isLog ? low * Math.pow(high / low, share) : low + share * (high - low);
  }
  for (const panel of document.querySelectorAll("[data-axes]")) {
    const svg = panel.querySelector("svg");
    const { x, y, percent } = JSON.parse(panel.dataset.axes);
    const box = make("div", "", panel);
    let curves = null;
    box.className = "read";
    box.hidden = true;
    panel.addEventListener("pointerleave", function () { box.hidden = true; });
    panel.addEventListener("pointermove", function (event) {
      curves = curves || curvesOf(svg);
      const at = new DOMPoint(event.clientX, event.clientY);
      const place = at.matrixTransform(svg.getScreenCTM().inverse()).x;
      const shown = curves.filter((curve) => !curve.group.classList.contains("away"));
      box.hidden = place < x[0] || place > x[1] || !shown.length;
      if (box.hidden) return;
      const lines = shown.map(function ({ name, points }) {
        const near = points.reduce((a, b) => Math.abs(b[0] - place) < Math.abs(a[0] - place) ? b : a);
        const value = read(y, near[1]);
        const text = percent ? (100 * value).toFixed(1) + "%" : value.toPrecision(3);
        return [Math.round(read(x, near[0])), name + "  " + text];
      });
      box.textContent = ["round " + lines[0][0], ...lines.map((line) => line[1])].join("\n");
      box.style.left = place < (x[0] + x[1]) / 2 ? "auto" : "0";
      box.style.right = place < (x[0] + x[1]) / 2 ? "0" : "auto";
    });
  }
})();
