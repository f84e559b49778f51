"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = (selector, inside = document) => inside.querySelector(selector);
  const SVG = "http://www.w3.org/2000/svg";

  function draw(parent, name, attributes = {}, text = "") {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  }

  // The numbers of each run are in its download link; read when they are wanted.
  const links = all("a.data");
  const known = new Map();
  function data(place) {
    if (!known.has(place)) {
      const link = links[place].getAttribute("href");
      known.set(place, JSON.parse(decodeURIComponent(link.slice(link.indexOf(",") + 1))));
    }
    return known.get(place);
  }

  function show(value) {
    if (value === null || value === undefined) return "–";
    if (value === "inf") return "beyond reach";
    if (typeof value === "string") return value;
    if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
    const size = Math.abs(value);
    if (size < 1e-3 || size >= 1e7) return value.toExponential(3);
    return String(Number(value.toPrecision(4)));
  }
  const percent = (value) => `${Math.round(1000 * value) / 10} %`;

  // --- theme
  const toggle = one("#theme");
  const dark = () =>
    document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { toggle.textContent = dark() ? "Light colours" : "Dark colours"; };
  toggle.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  // --- sorting: by numbers where there are some, empty cells last
  const table = one("#runs-table");
  all("thead th", table).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = all("tbody tr", table).map((row) => [row.cells[column].dataset.value, row]);
      const numbers = heading.dataset.kind === "number";
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numbers
          ? Number(a) - Number(b)
          : a.localeCompare(b, "en", { numeric: true });
        return down ? -order : order;
      });
      one("tbody", table).append(...rows.map(([, row]) => row));
    });
  });

  // --- downloads
  function save(name, kind, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
  function columns(run) {
    const found = new Map(run.courses.map((course) => [course.key, course.values]));
    if (run.spectrum) {
      run.spectrum.blocks.forEach((block, i) => {
        const values = run.spectrum.power.map((row) => row && row[i]);
        found.set(`power[embedding,${block}]`, values);
      });
    }
    return found;
  }
  one("#save-runs").addEventListener("click", () => {
    const head = all("thead th", table).map((heading) => heading.textContent);
    const rows = all("tbody tr", table).map((row) => [...row.cells].map((c) => c.dataset.value));
    save("runs.csv", "text/csv", csv([head, ...rows]));
  });
  one("#save-steps").addEventListener("click", () => {
    const runs = links.map((_, place) => data(place));
    const tables = runs.map(columns);
    const head = [...new Set(tables.flatMap((found) => [...found.keys()]))];
    const rows = runs.flatMap((run, r) =>
      run.steps.map((step, i) => [
        run.run, step, run.status[i], ...head.map((key) => tables[r].get(key)?.[i]),
      ]));
    save("steps.csv", "text/csv", csv([["run", "step", "status", ...head], ...rows]));
  });
  one("#save-all").addEventListener("click", () => {
    const runs = links.map((_, place) => data(place));
    save("report.json", "application/json", JSON.stringify({ runs }));
  });

  // --- step by step
  const choice = one("#run"), slider = one("#step"), told = one("#step-told");
  const quantity = one("#quantity");
  let run = null, marks = null;

  // Told apart by the colour-blind: lightness carries most of it. Roughly cividis, and, for a
  // phase, twilight, as in the other figures; evenly spaced, linear between.
  const SEQUENTIAL = [[0, 34, 78], [124, 123, 120], [254, 232, 56]];
  const CYCLIC = [[226, 217, 226], [149, 181, 199], [98, 118, 186], [89, 42, 143], [47, 20, 54],
    [116, 30, 79], [178, 86, 82], [204, 163, 137], [226, 217, 226]];

  function colour(value, tokens, low, high) {
    if (value === null) return "transparent";
    const [mix, start, end] = tokens.cyclic ? [CYCLIC, 0, 2 * Math.PI] : [SEQUENTIAL, low, high];
    const way = end > start ? ((value - start) / (end - start)) * (mix.length - 1) : 0;
    const place = Math.min(Math.floor(way), mix.length - 2);
    const [a, b] = [mix[place], mix[place + 1]];
    return `rgb(${a.map((from, i) => Math.round(from + (way - place) * (b[i] - from))).join(" ")})`;
  }

  function spectrum() {
    const svg = one("#spectrum svg"), note = one("#spectrum p");
    svg.replaceChildren();
    svg.toggleAttribute("hidden", !run.spectrum);
    if (!run.spectrum) {
      note.textContent = "This run's result has no spectrum of the embedding.";
      return () => {};
    }
    const { blocks, key, power, left_out: rest } = run.spectrum;
    const top = Math.max(...power.flatMap((row) => row || [0]).map(Number), 1e-9);
    const width = 370 / blocks.length, every = Math.ceil(blocks.length / 8);
    draw(svg, "path", { class: "axis", d: "M50 10V200H425" });
    draw(svg, "text", { x: 46, y: 18, "text-anchor": "end" }, percent(top));
    draw(svg, "text", { x: 46, y: 204, "text-anchor": "end" }, "0");
    const bars = blocks.map((block, i) => {
      const bar = draw(svg, "rect", {
        class: key[i] ? "block key" : "block", x: 52 + i * width, width: 0.8 * width,
      });
      draw(bar, "title", {}, block);
      if (i % every === 0) {
        draw(svg, "text", { x: 52 + (i + 0.4) * width, y: 218, "text-anchor": "middle" }, block);
      }
      return bar;
    });
    note.textContent =
      (key.some(Boolean) ? `Stand out at the last step: ${blocks.filter((_, i) => key[i]).join(", ")}. ` : "") +
      (rest ? `${rest} weaker blocks are not shown.` : "");
    return (i) => {
      const row = power[i];
      bars.forEach((bar, b) => {
        const high = row ? (190 * row[b]) / top : 0;
        bar.setAttribute("y", 200 - high);
        bar.setAttribute("height", high);
      });
      const best = row && blocks.map((block, b) => [row[b], block]).sort((a, b) => b[0] - a[0]);
      svg.setAttribute("aria-label", row
        ? "Spectrum. Strongest: " + best.slice(0, 3).map(([v, b]) => `${b} ${percent(v)}`).join(", ")
        : "No spectrum at this step");
    };
  }

  function embedding() {
    const svg = one("#tokens svg"), note = one("#tokens p");
    const tokens = run.tokens;
    svg.replaceChildren();
    svg.toggleAttribute("hidden", !tokens.points);
    if (!tokens.points) {
      note.textContent = tokens.reason;
      return () => {};
    }
    const finite = tokens.colour.filter((value) => value !== null);
    const low = Math.min(...finite), high = Math.max(...finite);
    const lines = [];
    for (let e = 0; e < tokens.edges.length; e += 2) {
      lines.push([draw(svg, "line", { class: "edge" }), tokens.edges[e], tokens.edges[e + 1]]);
    }
    const dots = tokens.colour.map((value, token) => {
      const dot = draw(svg, "circle", { class: "token", r: 6, fill: colour(value, tokens, low, high) });
      draw(dot, "title", {}, `token ${token}`);
      return dot;
    });
    const held = tokens.points.flatMap((points, i) => (points ? [i] : []));
    return (wanted) => {
      // not every step is held where there are many runs
      const i = held.reduce((best, j) => (Math.abs(j - wanted) < Math.abs(best - wanted) ? j : best));
      const at = tokens.points[i];
      const x = (token) => 210 + 0.19 * at[2 * token], y = (token) => 210 - 0.19 * at[2 * token + 1];
      dots.forEach((dot, token) => {
        dot.setAttribute("cx", x(token));
        dot.setAttribute("cy", y(token));
      });
      for (const [line, a, b] of lines) {
        line.setAttribute("x1", x(a)); line.setAttribute("y1", y(a));
        line.setAttribute("x2", x(b)); line.setAttribute("y2", y(b));
      }
      const other = i === wanted ? "" : `The nearest that is held: ${run.unit} ${run.steps[i]}. `;
      note.textContent = `${other}Plane of the first two principal components: ${percent(tokens.shares[i])} of ` +
        `the variance; half width ${show(tokens.scale[i])}. Colour: ${tokens.colour_label}.`;
      svg.setAttribute("aria-label", `${other}Tokens in a plane that holds ${percent(tokens.shares[i])} of the variance`);
    };
  }

  function course() {
    const svg = one("#course svg"), chosen = run.courses[quantity.selectedIndex];
    svg.replaceChildren();
    if (!chosen) return () => {};
    const numbers = chosen.values.filter((value) => typeof value === "number");
    const share = chosen.key.startsWith("accuracy") || chosen.key.startsWith("onset_never");
    const low = share ? 0 : Math.min(...numbers), high = share ? 1 : Math.max(...numbers);
    const log = low > 0 && high / low > 100;
    const level = (value) => (log ? Math.log(value) : value);
    const last = Math.log1p(run.steps.at(-1)), first = Math.log1p(run.steps[0]);
    const x = (i) => 76 + (344 * (Math.log1p(run.steps[i]) - first)) / (last - first || 1);
    const span = level(high) - level(low);
    const y = (value) => (span ? 195 - (180 * (level(value) - level(low))) / span : 105);
    draw(svg, "path", { class: "axis", d: "M71 10V200H425" });
    draw(svg, "text", { x: 68, y: 18, "text-anchor": "end" }, show(high));
    draw(svg, "text", { x: 68, y: 202, "text-anchor": "end" }, show(low));
    draw(svg, "text", { x: 71, y: 218 }, `${run.unit} ${run.steps[0]}`);
    draw(svg, "text", { x: 425, y: 218, "text-anchor": "end" },
      `${run.steps.at(-1)} (logarithmic${log ? ", values too" : ""})`);
    let path = "", pen = "M";
    chosen.values.forEach((value, i) => {
      if (typeof value !== "number") { pen = "M"; return; }
      path += `${pen}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    });
    draw(svg, "path", { class: "course", d: path });
    const now = draw(svg, "line", { class: "now", y1: 10, y2: 200 });
    const dot = draw(svg, "circle", { class: "dot", r: 5 });
    return (i) => {
      const value = chosen.values[i], there = typeof value === "number";
      now.setAttribute("x1", x(i));
      now.setAttribute("x2", x(i));
      dot.toggleAttribute("hidden", !there);
      if (there) { dot.setAttribute("cx", x(i)); dot.setAttribute("cy", y(value)); }
      svg.setAttribute("aria-label",
        `${chosen.label}, from ${show(low)} to ${show(high)}; here ${show(value)} ${chosen.unit}`);
    };
  }

  function values() {
    const body = one("#values tbody");
    const cells = run.courses.map((entry) => {
      const row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = entry.label + (entry.unit ? ` (${entry.unit})` : "");
      row.append(head);
      return row.insertCell();
    });
    return (i) => cells.forEach((td, c) => { td.textContent = show(run.courses[c].values[i]); });
  }

  function move() {
    const i = Number(slider.value);
    const text = `${run.unit} ${run.steps[i]}` + (run.status[i] === "ok" ? "" : ` (${run.status[i]})`);
    told.textContent = run.stages[i] ? `${text}: ${run.stages[i]}` : text;
    slider.setAttribute("aria-valuetext", told.textContent);
    for (const mark of marks) mark(i);
  }

  function pick() {
    run = data(Number(choice.value));
    slider.max = Math.max(run.steps.length - 1, 0);
    slider.value = slider.max;
    const before = quantity.value;
    quantity.replaceChildren(...run.courses.map((entry) => new Option(entry.label, entry.key)));
    if (run.courses.some((entry) => entry.key === before)) quantity.value = before;
    else {
      const first = run.courses.findIndex((entry) => entry.key.startsWith("accuracy[held"));
      quantity.selectedIndex = Math.max(first, 0);
    }
    one("#values tbody").replaceChildren();
    marks = [spectrum(), embedding(), course(), values()];
    move();
  }

  if (choice.length) {
    choice.addEventListener("change", pick);
    slider.addEventListener("input", move);
    quantity.addEventListener("change", () => { marks[2] = course(); move(); });
    pick();
    one("#steps").hidden = false;
  }
  // a link to a run opens it
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && "open" in target) target.open = true;
  };
  addEventListener("hashchange", open);
  open();
  for (const element of all(".js")) element.hidden = false;
})();
