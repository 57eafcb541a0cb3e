// Sorts and filters the tables of a report, and draws its figures from their numbers in place of the pictures.
// Names and texts are only ever set as text, never as markup.
"use strict";
(() => {
  const INK = {light: {"--ink": "#1f2328", "--muted": "#59636e", "--paper": "#ffffff", "--line": "#d1d9e0"}};
  // After so many systems a colour comes again, with another shape of its points and lines.
  const SERIES = 7, DASHES = [null, "6,3", "2,3"], SHAPES = ["circle", "square", "triangle"];
  const SIGNS = {curves: ["━", "┅", "┉"], other: ["●", "■", "▲"]};
  const colour = (place) => `var(--series-${place % SERIES})`;
  const round = (place) => Math.floor(place / SERIES) % DASHES.length;
  const dash = (place) => DASHES[round(place)];
  const sign = (chart, place) => (SIGNS[chart.kind] ?? SIGNS.other)[round(place)];
  const dots = (points, options) => SHAPES.map((symbol, shape) =>
    Plot.dot(points.filter((one) => round(one.place) === shape), {...options, symbol}));
  const digits = (value) => value == null ? "–" : Math.abs(value) >= 100 ? value.toLocaleString("en", {maximumFractionDigits: 1})
    : value.toLocaleString("en", {maximumSignificantDigits: 4});
  const fixed = (value) => value == null ? "–" : value.toFixed(3);
  const percent = (share) => share > 0 && share < 0.01 ? "<1 %" : `${(100 * share).toFixed(0)} %`;
  const interval = (one) => one.low == null ? "" : ` (${fixed(one.low)}–${fixed(one.high)})`;
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    node.className = className;
    if (text != null) node.textContent = text;
    return node;
  };
  const nameOf = (chart) => Object.fromEntries(chart.legend.map((one) => [one.place, one.name]));
  // Labels of an axis take at most a third of the width.
  const cut = (text, most) => text.length <= most ? text : `${text.slice(0, most / 2)}…${text.slice(-most / 2)}`;

  const look = (width, more) => ({
    width, marginTop: 12, marginRight: 16, style: {fontSize: "13px", background: "transparent"}, ...more,
  });
  const tip = {fill: "var(--paper)", stroke: "var(--line)", fontSize: 13, lineHeight: 1.3, lineWidth: 24};
  const grid = {stroke: "var(--line)", strokeOpacity: 1};

  // Of each kind of figure: the panels, each {title, plot(width)}.
  const KINDS = {
    scores: (chart) => [{plot: (width) => {
      const rows = chart.systems.map((one, place) => ({...one, place}));
      const says = (one) => [one.name, `${chart.metric}: ${fixed(one.score)}${interval(one)}`,
        ...(one.before == null ? [] : [`before training: ${fixed(one.before)}`])].join("\n");
      const floors = chart.baselines.map((one, line) => ({...one, line}));
      // Names have a column of their own, on a narrow screen a line; lines of baselines stop where they begin.
      const beside = width >= 620, high = beside ? 30 : 42, dot = beside ? 15 : 29, most = Math.floor(width / (beside ? 20 : 8));
      const names = rows.map((one) => cut(one.name, most));
      const gutter = beside ? 8 * Math.max(...names.map((name) => name.length)) + 16 : 10;
      const y = (one) => one.place * high + dot;
      const marked = floors.flatMap((one) => rows.map((row) => ({...one, y1: row.place * high + (beside ? 0 : 20), y2: (row.place + 1) * high})));
      return Plot.plot(look(width, {
        height: high * rows.length + 66, marginLeft: gutter, marginTop: 10 + 18 * floors.length, marginBottom: 40,
        x: {domain: chart.domain, label: `${chart.metric}${chart.higher ? " →" : " ← lower is better"}`, labelAnchor: "right"},
        y: {domain: [high * rows.length, 0], axis: null},
        marks: [
          Plot.gridX(grid),
          ...[0, 1].map((line) => Plot.ruleX(marked.filter((one) => one.line === line), {x: "value", y1: "y1", y2: "y2",
            stroke: "var(--muted)", strokeDasharray: line ? "2,3" : "5,3"})),
          // At the right end a name stands before its line, where it is not cut off.
          ...floors.map((one) => Plot.text([one], {x: "value", text: () => `${one.name} ${fixed(one.value)}`, frameAnchor: "top",
            textAnchor: one.value > (chart.domain[0] + chart.domain[1]) / 2 ? "end" : "start", dx: 0, dy: -16 - 15 * one.line,
            fill: "var(--muted)"})),
          // The edge hides the grid behind a name.
          Plot.text(rows, {y: (one) => one.place * high + (beside ? dot : 10), text: (one) => names[one.place], frameAnchor: "left",
            dx: beside ? -12 : 0, textAnchor: beside ? "end" : "start", fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4}),
          Plot.ruleY(rows.filter((one) => one.low != null), {x1: "low", x2: "high", y, strokeWidth: 2.5,
            stroke: (one) => colour(one.place), strokeOpacity: 0.75}),
          Plot.dot(rows.filter((one) => one.before != null), {x: "before", y, r: 4.5, stroke: "var(--muted)"}),
          Plot.dot(rows, {x: "score", y, r: 5.5, fill: (one) => colour(one.place)}),
          Plot.tip(rows, Plot.pointerY({x: "score", y, title: says, ...tip})),
        ],
        color: {type: "identity"},
      }));
    }}],

    cost: (chart) => chart.panels.map((panel) => ({title: panel.title, plot: (width) => {
      const says = (one) => `${one.name}\n${chart.metric}: ${fixed(one.score)}${interval(one)}\n${panel.title}: ${digits(one.cost)}`;
      const ticks = Math.max(3, Math.floor(width / 90));
      // A point that lies on another has its letter at the other side.
      const x = (one) => one.cost / panel.most * (width - 68);
      const y = (one) => one.score / (chart.domain[1] - chart.domain[0]) * 232;
      const crowded = new Set(panel.points.filter((one, place) => panel.points.slice(0, place).some((other) =>
        Math.abs(x(one) - x(other)) < 24 && Math.abs(y(one) - y(other)) < 16)));
      return Plot.plot(look(width, {
        height: 300, marginTop: 26, marginLeft: 52, marginBottom: 42, color: {type: "identity"},
        x: {domain: [0, panel.most], label: `${panel.title} →`, ticks},
        y: {domain: chart.domain, label: chart.metric},
        marks: [
          Plot.gridX({...grid, ticks}), Plot.gridY(grid),
          Plot.line(panel.front, {x: (one) => one[0], y: (one) => one[1], curve: "step-after", stroke: "var(--muted)",
            strokeDasharray: "5,3"}),
          Plot.ruleX(panel.points.filter((one) => one.low != null), {x: "cost", y1: "low", y2: "high", strokeWidth: 1.5,
            stroke: (one) => colour(one.place), strokeOpacity: 0.75}),
          ...dots(panel.points, {x: "cost", y: "score", r: 6, stroke: (one) => colour(one.place), strokeWidth: 2,
            fill: (one) => one.front ? colour(one.place) : "var(--paper)"}),
          ...[[false, 11, -9], [true, -11, 11]].map(([below, dx, dy]) => Plot.text(panel.points.filter((one) =>
            crowded.has(one) === below), {x: "cost", y: "score", text: "sign", dx, dy, fill: "var(--ink)",
            stroke: "var(--paper)", strokeWidth: 3})),
          Plot.tip(panel.points, Plot.pointer({x: "cost", y: "score", title: says, ...tip})),
        ],
      }));
    }})),

    curves: (chart) => chart.panels.map((panel) => ({title: panel.title, plot: (width) => {
      const points = panel.lines.flatMap((line, run) => line.points.map(([step, value]) => ({...line, run, step, value})));
      const says = (one) => `${nameOf(chart)[one.place]}\nstep ${digits(one.step)}: ${digits(one.value)}`;
      const ticks = Math.max(3, Math.floor(width / 90));
      return Plot.plot(look(width, {
        height: 250, marginTop: 26, marginLeft: 52, marginBottom: 42, color: {type: "identity"},
        x: {label: "optimiser step →", ticks}, y: {label: panel.unit, domain: panel.domain},
        marks: [
          Plot.gridX({...grid, ticks}), Plot.gridY(grid),
          ...DASHES.map((style) => Plot.line(points.filter((one) => dash(one.place) === style), {x: "step", y: "value", z: "run",
            stroke: (one) => colour(one.place), strokeWidth: 1.4, strokeDasharray: style ?? "none"})),
          Plot.tip(points, Plot.pointer({x: "step", y: "value", title: says, ...tip})),
        ],
      }));
    }})),

    sizes: (chart) => [{plot: (width) => {
      const laws = chart.laws.flatMap((law) => law.points.map(([examples, score]) => ({place: law.place, examples, score})));
      const lawless = chart.points.filter((one) => !chart.laws.some((law) => law.place === one.place));
      const says = (one) => `${nameOf(chart)[one.place]}\n${one.examples.toLocaleString("en")} examples\n`
        + `${chart.metric}: ${fixed(one.score)}${interval(one)}`;
      return Plot.plot(look(width, {
        height: 340, marginTop: 26, marginLeft: 52, marginRight: 32, marginBottom: 42, color: {type: "identity"},
        x: {type: "log", label: "training examples (logarithmic) →", ticks: chart.sizes,
          tickFormat: (size) => size.toLocaleString("en")},
        y: {label: chart.metric, domain: chart.domain},
        marks: [
          Plot.gridX(chart.sizes, grid), Plot.gridY(grid),
          ...DASHES.map((style) => Plot.line(laws.filter((one) => dash(one.place) === style), {x: "examples", y: "score", z: "place",
            stroke: (one) => colour(one.place), strokeWidth: 1.6, strokeDasharray: style ?? "none"})),
          Plot.line(lawless, {x: "examples", y: "score", z: "place", stroke: (one) => colour(one.place), strokeDasharray: "1,3"}),
          Plot.ruleX(chart.points.filter((one) => one.low != null), {x: "examples", y1: "low", y2: "high", strokeWidth: 1.5,
            stroke: (one) => colour(one.place), strokeOpacity: 0.6}),
          ...dots(chart.points, {x: "examples", y: "score", r: 4.5, fill: (one) => colour(one.place)}),
          Plot.tip(chart.points, Plot.pointer({x: "examples", y: "score", title: says, ...tip})),
        ],
      }));
    }}],

    labels: (chart) => [{plot: (width) => {
      // Heights in pixels: of each label its name, then a row for each system.
      const number = chart.legend.length, step = Math.max(8, Math.min(14, 90 / number)), high = step * number + 34;
      const points = chart.labels.flatMap((label, row) => chart.legend.map((one, line) =>
        ({...one, label, y: row * high + 28 + line * step, value: chart.values[line][row]}))).filter((one) => one.value != null);
      const says = (one) => `${one.label}\n${one.name}\n${chart.metric}: ${fixed(one.value)}`;
      const all = high * chart.labels.length;
      return Plot.plot(look(width, {
        height: all + 52, marginLeft: 10, marginBottom: 40, color: {type: "identity"},
        x: {domain: chart.domain, label: `${chart.metric} →`}, y: {domain: [all, 0], axis: null},
        marks: [
          Plot.gridX(grid),
          Plot.text(chart.labels, {y: (_, row) => row * high + 12, text: (label) => cut(label, Math.floor(width / 8)),
            frameAnchor: "left", textAnchor: "start", fontWeight: 600, fill: "var(--ink)", stroke: "var(--paper)",
            strokeWidth: 4}),
          ...dots(points, {x: "value", y: "y", r: 4.5, fill: (one) => colour(one.place)}),
          Plot.tip(points, Plot.pointer({x: "value", y: "y", title: says, ...tip})),
        ],
      }));
    }}],

    confusion: (chart) => chart.matrices.map((matrix) => ({title: matrix.name, plot: (width) => {
      const size = chart.labels.length, shown = Math.min(width, 120 + 64 * size);
      const most = Math.max(4, Math.min(24, Math.floor(shown / 24)));
      const left = Math.min(8 * Math.max(...chart.labels.map((label) => Math.min(label.length, most))) + 18, shown / 3);
      const rotated = left > 0.8 * (shown - left) / size, bottom = rotated ? 0.6 * left + 34 : 46;
      const cells = matrix.counts.flatMap((row, reference) => {
        const total = row.reduce((sum, count) => sum + count, 0);
        return row.map((count, predicted) => ({reference, predicted, count, share: total ? count / total : null}));
      });
      const says = (one) => `reference: ${chart.labels[one.reference]}\npredicted: ${chart.labels[one.predicted]}\n`
        + `${digits(one.count)}${one.share == null ? "" : ` (${(100 * one.share).toFixed(1)} % of the row)`}`;
      const axis = {domain: chart.labels.map((_, place) => place), tickFormat: (place) => cut(chart.labels[place], most), tickSize: 0};
      return Plot.plot(look(shown, {
        height: shown - left + bottom, marginLeft: left + 16, marginBottom: bottom, marginTop: 6, padding: 0.03,
        x: {...axis, label: "predicted", labelAnchor: "center", tickRotate: rotated ? -35 : 0},
        y: {...axis, label: "reference", labelAnchor: "center"},
        color: {type: "sqrt", domain: [0, 1], scheme: "Blues", unknown: "#999999"},
        marks: [
          // An edge, since the lightest shade is nearly a white page's.
          Plot.cell(cells, {x: "predicted", y: "reference", fill: "share", stroke: "var(--line)", strokeWidth: 0.75}),
          size > 8 ? null : Plot.text(cells, {x: "predicted", y: "reference",
            text: (one) => one.share == null ? "–" : percent(one.share), fill: (one) => one.share > 0.35 ? "#ffffff" : "#1f2328"}),
          Plot.tip(cells, Plot.pointer({x: "predicted", y: "reference", title: says, ...tip})),
        ],
      }));
    }})),
  };

  // The arrow keys go from point to point, as the pointer does.
  const byKeys = (svg, name) => {
    let place = -1;
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name}; the arrow keys show the values`);
    svg.addEventListener("keydown", (event) => {
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      const points = [...svg.querySelectorAll("[aria-label=dot] :is(circle, path), [aria-label=cell] rect")];
      if (!step || !points.length) return;
      event.preventDefault();
      place = (place + step + points.length) % points.length;
      const box = points[place].getBoundingClientRect();
      const at = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, pointerType: "mouse"};
      svg.dispatchEvent(new PointerEvent("pointerenter", at));
      svg.dispatchEvent(new PointerEvent("pointermove", at));
    });
    svg.addEventListener("blur", () => svg.dispatchEvent(new PointerEvent("pointerleave", {pointerType: "mouse"})));
  };

  // One picture of all panels with their titles and the legend, in the colours of a light page.
  const asSvg = (box, chart) => {
    const NS = "http://www.w3.org/2000/svg";
    const whole = document.createElementNS(NS, "svg");
    let height = 8, width = 0;
    const write = (text, x, fill) => {
      const line = document.createElementNS(NS, "text");
      for (const [key, value] of Object.entries({x, y: height + 14, fill, "font-size": 13})) line.setAttribute(key, value);
      line.textContent = text;
      width = Math.max(width, x + 7.5 * text.length);
      whole.append(line);
      height += 20;
    };
    for (const panel of box.querySelectorAll(".panel")) {
      const title = panel.querySelector(".panel-title"), svg = panel.querySelector("svg").cloneNode(true);
      if (title) write(title.textContent, 8, "var(--ink)");
      for (const shown of svg.querySelectorAll("[aria-label=tip]")) shown.remove();
      svg.setAttribute("y", height);
      height += Number(svg.getAttribute("height")) + 8;
      width = Math.max(width, Number(svg.getAttribute("width")));
      whole.append(svg);
    }
    for (const {place, name} of chart.legend ?? []) write(`${sign(chart, place)} ${name}`, 8, colour(place));
    for (const [key, value] of Object.entries({xmlns: NS, width, height: height + 8, viewBox: `0 0 ${width} ${height + 8}`,
      "font-family": "system-ui, sans-serif", style: "background: #ffffff", color: INK.light["--ink"]})) whole.setAttribute(key, value);
    const light = {...INK.light, ...Object.fromEntries(chart.colours.map((value, place) => [`--series-${place}`, value]))};
    return new XMLSerializer().serializeToString(whole).replace(/var\((--[\w-]+)\)/g, (found, name) => light[name] ?? found);
  };

  const save = (name, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "image/svg+xml"}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };

  const draw = (figure, chart, colours) => {
    const picture = figure.querySelector("img"), box = make("div", "chart");
    const panels = KINDS[chart.kind](chart);
    const paint = () => {
      // The width of one panel: two beside one another where both are readable.
      const room = figure.clientWidth, columns = Math.min(panels.length, Math.max(1, Math.floor(room / 400)));
      const width = Math.floor((room - 16 * (columns - 1)) / columns);
      box.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
      box.replaceChildren(...panels.map((panel) => {
        const place = make("div", "panel"), plot = panel.plot(width);
        if (panel.title) place.append(make("div", "panel-title", panel.title));
        byKeys(plot, panel.title ?? picture.alt);
        place.append(plot);
        return place;
      }));
    };
    picture.before(box);
    paint();
    const legend = make("ul", "legend");
    for (const {place, name} of chart.legend ?? []) {
      const item = make("li", "", name);
      item.style.setProperty("--mark", colour(place));
      item.dataset.sign = sign(chart, place);
      legend.append(item);
    }
    const button = make("button", "save", "Save as SVG");
    button.type = "button";
    button.addEventListener("click", () => save(`${picture.dataset.name}.svg`, asSvg(box, {...chart, colours})));
    box.after(legend, button);
    picture.hidden = true;
    let width = figure.clientWidth;
    new ResizeObserver(() => {
      if (figure.clientWidth && figure.clientWidth !== width) {
        width = figure.clientWidth;
        paint();
      }
    }).observe(figure);
  };

  // Cells as "0.843 (0.818–0.866)", "12.3 %", "0.52 → 0.84" or "–" are sorted by their number; unknown ones come last.
  const NUMBER = /^[<+]?([-−]?[\d,]*\.?\d+(?:e[-+]?\d+)?)(?![\w-])/;
  const plain = (cell) => cell.replace(/<[^>]*>/g, "").trim().replace(/^.*→ /, "");
  const number = (cell) => {
    const found = NUMBER.exec(plain(cell));
    return found ? Number(found[1].replaceAll(",", "").replace("−", "-")) : -Infinity;
  };
  DataTable.type("report-number", {
    detect: {allOf: (cell) => plain(cell) === "–" || NUMBER.test(plain(cell)), oneOf: (cell) => NUMBER.test(plain(cell))},
    order: {pre: number},
    className: "",
  });
  const enhance = (table) => {
    const rows = table.tBodies[0]?.rows.length ?? 0, columns = table.tHead?.rows[0]?.cells.length ?? 0;
    if (rows < 3 || columns < 3) return;
    new DataTable(table, {
      paging: false, info: false, order: [], autoWidth: false, orderMulti: false,
      layout: {topStart: rows < 6 ? null : {search: {placeholder: "filter rows", text: "_INPUT_"}}, topEnd: null, bottomStart: null, bottomEnd: null},
      language: {zeroRecords: "No row holds this."},
    });
  };

  // The names of the rows stay where a table is scrolled, and its right end fades while there is more.
  const MANY_COLUMNS = 1, NAMES = ["system", "better score", "example", "data set"];
  const scrolls = (box) => {
    const table = box.querySelector("table"), heads = [...table.tHead?.rows[0]?.cells ?? []];
    const column = Math.max(0, heads.findIndex((head) => NAMES.includes(head.textContent.trim())));
    for (const row of table.rows) row.cells[column]?.classList.add("key");
    // Many columns of words, as the answers of many systems, need less room each than a text.
    const texts = heads.findIndex((head) => head.textContent.trim() === "text");
    box.classList.toggle("many", heads.filter((head) => head.style.textAlign === "left").length > MANY_COLUMNS);
    if (texts >= 0) for (const row of table.tBodies[0].rows) row.cells[texts]?.classList.add("text");
    const hint = () => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    box.addEventListener("scroll", hint, {passive: true});
    new ResizeObserver(hint).observe(box);
  };

  const charts = JSON.parse(document.getElementById("charts").textContent);
  for (const figure of document.querySelectorAll("figure")) {
    const chart = charts.figures[figure.querySelector("img")?.dataset.name];
    if (chart) draw(figure, chart, charts.colours);
  }
  for (const box of document.querySelectorAll(".scroll")) scrolls(box);
  for (const table of document.querySelectorAll("table")) enhance(table);
})();
