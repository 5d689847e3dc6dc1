"use strict";
// Draw the charts from the data embedded in the page, and open the responses at a point.
(() => {
  const { $, el, svg, OUTCOMES } = dom;
  let data = JSON.parse($("chart-data").textContent);
  const responses = document.body.dataset.source ? fetchedResponses(document.body.dataset.source) : embeddedResponses();

  // The colormap cividis at the middle of each band of ten percent.
  const BANDS = ["#002b62", "#243c6e", "#434e6c", "#5b606e", "#727274", "#888578", "#a19975", "#bcae6c", "#d6c35d", "#f3db42"];
  const SHOWN_AT_ONCE = 100;

  const signed = (x) => (x < 0 ? "−" : x > 0 ? "+" : "") + Math.abs(x).toLocaleString("en", { maximumFractionDigits: 4 });
  const percent = (x) => x.toFixed(1) + "%";

  // Responses. prompts(): [text, category] of each prompt, by prompt set. atPoint(id): by prompt set, [indices of the
  // prompts, texts, a string of verdict letters for each judge].

  function embeddedResponses() { // in the page; parsed at the first click, so that the page opens fast
    let parsed = null;
    const read = () => (parsed ??= JSON.parse($("responses-data").textContent));
    return {
      prompts: async () => read().prompts,
      atPoint: async (id) => (read().points[id] ?? []).map((own) => own && [own[0], own[1].map((i) => read().texts[i]), own[2]]),
    };
  }
  function fetchedResponses(root) { // from the viewer's server
    let prompts = null, whole = "";
    return {
      prompts: async () => (prompts ??= await dom.fetchJson(`${root}/prompts`)),
      atPoint: (id) => dom.fetchJson(`${root}/points/${id}${whole}`),
      reveal: (on) => (whole = on ? "?reveal=true" : ""),
    };
  }

  // Names and numbers of a row of a result.

  const valueAt = (result, i) => result.rows.value[i];
  const isInferred = (node) => node.result.rows.inferred[node.row] === 1;
  function placeName(result, i) {
    const { line, alpha, beta } = result.rows;
    const coordinates = `α ${signed(alpha[i])}` + (beta[i] === null ? "" : `, β ${signed(beta[i])}`);
    const mark = data.marks.find(([k, point]) => k === line[i] && point === result.rows.point[i]);
    if (result.rows.point[i] === data.origin) return "The origin";
    return (mark ? `${mark[2]}: ` : "") + `${coordinates}, ${data.lines[line[i]]}`;
  }
  function numbers(result, i) {
    const { n, value, low: lows, high: highs, refused, complied, unclear, degenerate, unfinished, nonfinite, inferred } = result.rows;
    const rest = unfinished[i] ? [`${unfinished[i]} unfinished thoughts, without a verdict`] : [];
    if (nonfinite[i]) rest.push(`${nonfinite[i]} responses that are not finite, without a verdict`);
    if (value[i] === null) return rest.length ? rest : ["missing: not measured"];
    const [low, high] = [lows[i], highs[i]];
    if (inferred[i]) return [`inferred, not measured: ${result.name} ${percent(valueAt(result, i))}, 95% interval ${low.toFixed(1)} to ${high.toFixed(1)}`];
    const outcomes = `refused ${percent(refused[i])}, complied ${percent(complied[i])}, unclear ${percent(unclear[i])}, degenerate ${percent(degenerate[i])}`;
    return [`${result.name} ${percent(valueAt(result, i))}, 95% interval ${low.toFixed(1)} to ${high.toFixed(1)}`, outcomes, `${n[i]} prompts`, ...rest];
  }

  // The part that is shown: one view (results on the same axes) and, of several planes, one.

  const state = { view: 0, line: 0 };
  const shownResults = () => data.views[state.view].results.map((i) => data.results[i]);

  const choices = [];
  function choice(label, names, key) {
    const select = el("select", { id: `choose-${key}` }, ...names.map((name, i) => el("option", { value: i }, name)));
    const choose = (i) => (state[key] = select.selectedIndex = i);
    select.addEventListener("change", () => {
      choose(select.selectedIndex);
      address.set({ [key]: state[key] ? names[state[key]] : null });
      draw();
    });
    $("controls").append(el("label", { for: select.id }, label, select));
    choices.push(() => choose(Math.max(0, names.indexOf(address.get(key)))));
  }
  if (data.views.length > 1) choice("Show", data.views.map((view) => view.label), "view");
  if (data.plane && data.lines.length > 1) choice("Plane", data.lines, "line");

  // Make a chart react to pointer and keyboard. nodes: {x, y, result, row, mark}. reach: distance in pixels at which a
  // node is hit. step(marked, i, key): index of the node that a key leads to from node i.

  function interactive(root, nodes, reach, step) {
    let current = null;
    const highlight = (node) => {
      if (current === node) return;
      current?.mark?.classList.remove("on");
      current = node;
      if (!node) return void ($("tip").hidden = true);
      node.mark?.classList.add("on");
      tip(root, node);
    };
    const nearest = (event) => {
      const box = root.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      let closest = null, least = reach;
      for (const node of nodes) {
        const distance = Math.hypot(node.x - x, node.y - y);
        if (distance <= least) [closest, least] = [node, distance]; // of equal nodes the last one is on top
      }
      return closest;
    };
    root.addEventListener("pointermove", (event) => event.buttons || highlight(nearest(event)));
    root.addEventListener("pointerleave", () => highlight(null));
    root.addEventListener("click", (event) => {
      const node = nodes.find((each) => each.mark && each.mark.contains(event.target)) ?? nearest(event);
      if (node) open(node.result, node.row);
    });
    const marked = nodes.filter((node) => node.mark);
    const focus = (node) => {
      for (const each of marked) each.mark.setAttribute("tabindex", each === node ? 0 : -1);
    };
    marked.forEach((node, i) => {
      node.mark.addEventListener("focus", () => node.mark.matches(":focus-visible") && highlight(node));
      node.mark.addEventListener("blur", () => highlight(null));
      node.mark.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") open(node.result, node.row);
        else if (/^(Arrow|Home|End)/.test(event.key)) {
          const next = marked[step(marked, i, event.key)] ?? node;
          focus(next);
          next.mark.focus();
        } else return;
        event.preventDefault();
      });
    });
    focus(marked.find((node) => node.result.rows.point[node.row] === data.origin) ?? marked[0]);
  }

  function tip(root, node) {
    const box = root.getBoundingClientRect();
    const [first, ...rest] = numbers(node.result, node.row);
    $("tip").replaceChildren(el("b", {}, placeName(node.result, node.row)), ...[first, ...rest].map((text) => el("div", {}, text)));
    $("tip").hidden = false;
    const { offsetWidth: width, offsetHeight: height } = $("tip");
    const left = Math.max(8, Math.min(box.left + node.x - width / 2, document.documentElement.clientWidth - width - 8));
    const above = box.top + node.y - height - 14;
    $("tip").style.left = `${left + window.scrollX}px`;
    $("tip").style.top = `${(above > 4 ? above : box.top + node.y + 16) + window.scrollY}px`;
  }

  const keyOf = (result, row) => `${result.label} ${result.rows.line[row]} ${data.points[result.rows.point[row]]}`;

  function point(node, kind, shape) {
    const label = `${placeName(node.result, node.row)}: ${numbers(node.result, node.row).join(", ")}`;
    const mark = svg("g", { class: `point ${kind}`, transform: `translate(${node.x} ${node.y})`, role: "button", "aria-label": label, tabindex: -1, "data-key": keyOf(node.result, node.row) });
    mark.append(...shape);
    node.mark = mark;
    return mark;
  }

  const cross = (x, y, r) => `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`;

  function ticks(low, high, most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= rough * 0.999);
    const values = [];
    for (let i = Math.ceil(low / size - 1e-9); i * size <= high + size * 1e-9; i++) values.push(Math.round(i * size * 1e9) / 1e9);
    return values;
  }

  function axis(root, low, high, x, y0, y1, name, width) {
    for (const tick of ticks(low, high, width < 420 ? 5 : 10)) {
      root.append(svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: y1, y2: y1 + 5 }));
      root.append(svg("text", { x: x(tick), y: y1 + 19, "text-anchor": "middle" }, signed(tick)));
    }
    root.append(svg("text", { x: (x(low) + x(high)) / 2, y: y1 + 40, "text-anchor": "middle" }, name));
  }

  // Runs of measured points, as indices: a curve is interrupted at missing points.

  function runs(xs, ys) {
    const pieces = [[]];
    xs.forEach((x, i) => (ys[i] === null ? pieces.push([]) : pieces.at(-1).push(i)));
    return pieces.filter((run) => run.length);
  }
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

  // Lines: curves over alpha.

  function drawLines() {
    const results = shownResults(), host = $("chart"), width = host.clientWidth;
    const height = Math.round(Math.max(260, Math.min(430, width * 0.5)));
    const [left, right, top, bottom] = [42, 12, 22, height - 48];
    const alphas = results.flatMap((result) => result.rows.alpha);
    const [low, high] = [Math.min(...alphas), Math.max(...alphas)];
    const x = (a) => left + ((a - low) / (high - low || 1)) * (width - left - right);
    const y = (p) => bottom - (p / 100) * (bottom - top);
    const several = data.lines.length > 1;
    const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Curves over ${data.axes[0]}` });
    for (const p of [0, 25, 50, 75, 100]) {
      root.append(svg("line", { class: p === 50 ? "half" : "rule", x1: left, x2: width - right, y1: y(p), y2: y(p) }));
      root.append(svg("text", { x: left - 8, y: y(p) + 4, "text-anchor": "end" }, p === 100 ? "100%" : p));
    }
    axis(root, low, high, x, top, bottom, data.axes[0], width);

    const nodes = [], legend = [], marks = [], missing = new Set();
    results.forEach((result, k) => {
      const { kind } = result, { alpha, low: lows, high: highs, value: means, degenerate } = result.mean;
      for (const run of runs(alpha, means)) {
        const outline = [...run.map((i) => [x(alpha[i]), y(highs[i])]), ...run.toReversed().map((i) => [x(alpha[i]), y(lows[i])])];
        root.append(svg("path", { class: `band ${kind}`, d: path(outline) + "Z" }));
      }
      if (kind === "safety") {
        for (const run of runs(alpha, degenerate))
          root.append(svg("path", { class: "curve degenerate", d: path(run.map((i) => [x(alpha[i]), y(degenerate[i])])) }));
      }
      const { line, alpha: each, value: values } = result.rows;
      for (let k = 0; k < data.lines.length; k++) {
        const own = line.map((_, i) => i).filter((i) => line[i] === k).sort((i, j) => each[i] - each[j]);
        for (const run of several ? runs(own, own.map((i) => values[i])) : [])
          root.append(svg("path", { class: `curve thin ${kind}`, d: path(run.map((i) => [x(each[own[i]]), y(valueAt(result, own[i]))])) }));
        for (const row of own) {
          if (values[row] === null) missing.add(each[row]);
          else nodes.push({ x: x(each[row]), y: y(valueAt(result, row)), result, row, track: `${result.name} ${k}`, kind });
        }
      }
      for (const run of runs(alpha, means))
        root.append(svg("path", { class: `curve ${kind}`, d: path(run.map((i) => [x(alpha[i]), y(means[i])])) }));
      legend.push(swatch(kind, result.name + (several ? `, mean of ${data.lines.length}` : "")));
      if (several && !k) legend.push(swatch(`thin ${kind}`, "each direction"));
    });
    for (const chance of new Set(results.map((result) => result.chance).filter((level) => level !== null))) {
      const names = results.filter((result) => result.chance === chance).map((result) => result.name).join(", ");
      root.append(svg("line", { class: "chance", x1: left, x2: width - right, y1: y(chance), y2: y(chance) }));
      legend.push(swatch("chance", chanceName(names, chance)));
    }
    const attack = results.find((result) => result.kind === "safety");
    if (attack) legend.push(swatch("degenerate", "called degenerate"));
    legend.push(swatch("band", results[0].over ? `95% interval over ${results[0].over}` : "95% interval"));
    for (const edge of attack?.edges ?? []) {
      root.append(svg("line", { class: "edge", x1: x(edge), x2: x(edge), y1: top, y2: bottom }));
      root.append(svg("text", { class: "edge-name", x: x(edge), y: top - 7, "text-anchor": "middle" }, signed(Number(edge.toFixed(2)))));
    }
    for (const node of nodes) {
      const r = several ? 2.6 : 3.8;
      const shape = isInferred(node) ? "dot hollow" : "dot";
      const dot = node.kind !== "safety" ? svg("rect", { class: shape, x: -r, y: -r, width: 2 * r, height: 2 * r }) : svg("circle", { class: shape, r });
      marks.push(point(node, node.kind, [dot, svg("circle", { class: "ring", r: r + 4 })]));
    }
    for (const a of missing) {
      root.append(svg("path", { class: "halo", d: cross(x(a), y(0), 4) }), svg("path", { class: "missing", d: cross(x(a), y(0), 4) }));
    }
    if (missing.size) legend.push(swatch("missing", "missing"));
    if (nodes.some(isInferred)) legend.push(swatch("inferred", "inferred"));
    root.append(...marks);
    const named = new Set();
    for (const node of nodes) {
      const mark = data.marks.find(([k, p]) => k === node.result.rows.line[node.row] && p === node.result.rows.point[node.row]);
      if (!mark || node.result !== results[0] || named.has(mark[2])) continue;
      named.add(mark[2]);
      const anchor = node.x > width - 90 ? "end" : "start";
      const name = `${mark[2]} ${Math.round(valueAt(node.result, node.row))}%`;
      root.append(svg("text", { class: "mark-name", x: node.x + (anchor === "end" ? -9 : 9), y: node.y + (node.y < top + 24 ? 20 : -9), "text-anchor": anchor }, name));
    }
    data.beside.forEach(({ alpha, values, mark }, i) => {
      const own = values[data.views[state.view].results[0]];
      if (own !== null) root.append(...checkpoint(x(alpha), y(own), `${mark} ${Math.round(own)}%`, width, y(own) < bottom - 60 ? i + 1 : -i));
    });
    host.replaceChildren(root);
    $("legend").replaceChildren(...legend);
    interactive(root, nodes, 36, (marked, i, key) => {
      const own = marked.map((_, j) => j).filter((j) => marked[j].track === marked[i].track), here = own.indexOf(i);
      if (key === "Home") return own[0];
      if (key === "End") return own.at(-1);
      if (key === "ArrowLeft") return own[here - 1];
      if (key === "ArrowRight") return own[here + 1];
      const tracks = [...new Set(marked.map((node) => node.track))];
      const track = tracks[tracks.indexOf(marked[i].track) + (key === "ArrowUp" ? -1 : 1)];
      const other = marked.map((_, j) => j).filter((j) => marked[j].track === track);
      return other.sort((j, k) => Math.abs(marked[j].x - marked[i].x) - Math.abs(marked[k].x - marked[i].x))[0];
    });
  }

  // A checkpoint off the line or plane, drawn at its projection onto it. `step` moves names apart that would overlap.
  function checkpoint(x, y, name, width, step, fill = "var(--paper)") {
    const end = x > width - 90;
    return [
      svg("path", { class: "checkpoint", fill, d: `M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z` }),
      svg("text", { class: "mark-name", x: x + (end ? -10 : 10), y: y + 4 + 15 * step, "text-anchor": end ? "end" : "start" }, name),
    ];
  }

  function swatch(kind, name) {
    const icon = svg("svg", { width: 22, height: 12, "aria-hidden": "true" });
    if (kind === "band") icon.append(svg("rect", { class: "band safety", width: 22, height: 12 }));
    else if (kind === "missing") icon.append(svg("path", { class: "missing", d: cross(11, 6, 4) }));
    else if (kind === "inferred") icon.append(svg("g", { class: "point" }, svg("circle", { class: "dot hollow", cx: 11, cy: 6, r: 3.5 })));
    else if (kind === "origin") icon.append(svg("path", { class: "origin", d: star(11, 6, 7) }));
    else if (kind === "threshold") icon.append(svg("rect", { width: 22, height: 12, fill: BANDS[4] }), svg("path", { class: "threshold", d: "M0 6H22" }));
    else if (kind === "chance") icon.append(svg("path", { class: "chance", d: "M1 6H21" }));
    else icon.append(svg("path", { class: `curve ${kind}`, d: "M1 6H21" }));
    return el("span", {}, icon, name);
  }

  // The percentage of questions that letters drawn at random answer right.
  function chanceName(name, chance) {
    return `${name} by chance: ${Number(chance.toPrecision(3))}%`;
  }

  function star(x, y, r) {
    return path([...Array(10).keys()].map((i) => {
      const [angle, far] = [(i * Math.PI) / 5 - Math.PI / 2, i % 2 ? r * 0.45 : r];
      return [x + far * Math.cos(angle), y + far * Math.sin(angle)];
    })) + "Z";
  }

  // Planes: contours, and the same values as a surface.

  function drawPlane() {
    const [result] = shownResults(), host = $("chart"), plane = result.planes[state.line], { rows } = result;
    const [left, right, top, foot] = [62, 14, 8, 46];
    const side = Math.max(180, Math.min(host.clientWidth - left - right, 520));
    const x = (a) => left + ((a - plane.x[0]) / (plane.x[1] - plane.x[0])) * side;
    const y = (b) => top + side - ((b - plane.y[0]) / (plane.y[1] - plane.y[0])) * side;
    const size = [left + side + right, top + side + foot];
    const root = svg("svg", { width: size[0], height: size[1], viewBox: `0 0 ${size.join(" ")}`, role: "group", "aria-label": `${result.name} over ${data.axes.join(" and ")}` });
    const filled = svg("g", { transform: `translate(${left} ${top}) scale(${side / 1000})` });
    plane.bands.forEach((d, i) => d && filled.append(svg("path", { class: "filled", d, fill: BANDS[i], "fill-rule": "evenodd" })));
    if (plane.threshold) filled.append(svg("path", { class: "threshold", d: plane.threshold }));
    root.append(svg("rect", { class: "hole", x: left, y: top, width: side, height: side }), filled);
    axis(root, plane.x[0], plane.x[1], x, top, top + side, data.axes[0], side);
    for (const tick of ticks(plane.y[0], plane.y[1], side < 420 ? 5 : 10)) {
      root.append(svg("line", { class: "axis", x1: left - 5, x2: left, y1: y(tick), y2: y(tick) }));
      root.append(svg("text", { x: left - 9, y: y(tick) + 4, "text-anchor": "end" }, signed(tick)));
    }
    root.append(svg("text", { x: 0, y: 0, transform: `translate(10 ${top + side / 2}) rotate(-90)`, "text-anchor": "middle" }, data.axes[1]));

    const nodes = [];
    let holes = 0;
    rows.line.forEach((line, row) => {
      if (line !== state.line) return;
      const node = { x: x(rows.alpha[row]), y: y(rows.beta[row]), result, row };
      if (rows.value[row] === null) {
        holes++;
        root.append(svg("path", { class: "halo", d: cross(node.x, node.y, 3.5) }), svg("path", { class: "missing", d: cross(node.x, node.y, 3.5) }));
        return;
      }
      nodes.push(node);
      root.append(point(node, "plane", [svg("circle", { class: "under", r: 6 }), svg("circle", isInferred(node) ? { class: "dot hollow", r: 2.4 } : { class: "dot", r: 1.4 }), svg("circle", { class: "ring", r: 6 })]));
      if (rows.point[row] === data.origin) root.append(svg("path", { class: "origin", d: star(node.x, node.y, 8) }));
      const mark = data.marks.find(([k, p]) => k === line && p === rows.point[row]);
      const end = node.x > left + side - 70;
      if (mark) root.append(svg("text", { class: "mark-name", x: node.x + (end ? -9 : 9), y: node.y - 8, "text-anchor": end ? "end" : "start" }, `${mark[2]} ${Math.round(valueAt(result, row))}%`));
    });
    for (const { line, alpha, beta, values, mark } of data.beside) {
      const own = values[data.results.indexOf(result)];
      if (line === state.line && own !== null)
        root.append(...checkpoint(x(alpha), y(beta), `${mark} ${Math.round(own)}%`, left + side, 0, BANDS[Math.min(9, Math.floor(own / 10))]));
    }
    host.replaceChildren(root);
    const scale = el("span", { class: "scale" }, "0");
    const bar = svg("svg", { width: 120, height: 12, role: "img", "aria-label": "colors from 0 (dark blue) to 100 percent (yellow)" });
    BANDS.forEach((fill, i) => bar.append(svg("rect", { x: 12 * i, width: 12.5, height: 12, fill })));
    scale.append(bar, `100% ${result.name}`);
    const chance = result.chance === null ? [] : [el("span", {}, chanceName(result.name, result.chance))];
    $("legend").replaceChildren(scale, ...chance, swatch("threshold", "50%"), swatch("origin", "origin"), ...(holes ? [swatch("missing", "missing")] : []), ...(nodes.some(isInferred) ? [swatch("inferred", "inferred, not measured")] : []));
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-1e3, 0], End: [1e3, 0] };
    interactive(root, nodes, 24, (marked, i, key) => {
      const [dx, dy] = directions[key], from = marked[i];
      let next = i, least = Infinity;
      marked.forEach((node, j) => {
        const along = (node.x - from.x) * Math.sign(dx) + (node.y - from.y) * Math.sign(dy);
        const across = Math.abs(dx ? node.y - from.y : node.x - from.x);
        const cost = (Math.abs(dx) > 1 ? -along : along) + 20 * across;
        if (along > 0.5 && cost < least) [next, least] = [j, cost];
      });
      return next;
    });
    surface(result);
  }

  const rotation = { yaw: -0.7, pitch: 0.62 };

  function surface(result) {
    const host = $("surface"), { rows } = result;
    const own = rows.line.map((_, i) => i).filter((i) => rows.line[i] === state.line && rows.grid[i]);
    const [xs, ys] = [rows.alpha, rows.beta].map((axis) => [...new Set(own.map((i) => axis[i]))].sort((a, b) => a - b));
    const find = new Map(own.map((i) => [`${rows.alpha[i]} ${rows.beta[i]}`, i]));
    const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `The same values as a surface, ${result.name} upward. Arrow keys rotate it.` });
    host.replaceChildren(canvas);
    const width = host.clientWidth, height = Math.round(Math.min(width * 0.94, 540)), ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    canvas.style.height = `${height}px`;
    const nodes = own.filter((i) => rows.value[i] !== null).map((row) => ({ result, row, x: 0, y: 0 }));

    function paint() {
      const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
      const color = (name) => style.getPropertyValue(name).trim();
      const size = Math.min((width / 2 - 44) / 1.42, height * 0.33); // leaves room for the corners at any rotation
      const [cy, sy, cp, sp] = [Math.cos(rotation.yaw), Math.sin(rotation.yaw), Math.cos(rotation.pitch), Math.sin(rotation.pitch)];
      const project = (a, b, p) => { // a, b, in -1..1, p in percent -> [x, y, depth]
        const [u, v, w] = [a * cy - b * sy, a * sy + b * cy, (p - 50) / 62];
        return [width / 2 + u * size, height / 2 - (v * sp + w * cp) * size, v * cp - w * sp];
      };
      const unit = (value, axis) => (2 * (value - axis[0])) / (axis.at(-1) - axis[0]) - 1;
      const spot = (i) => project(unit(rows.alpha[i], xs), unit(rows.beta[i], ys), valueAt(result, i) ?? 0);
      const trace = (points) => {
        pen.beginPath();
        points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      };
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.lineWidth = 1;
      pen.strokeStyle = color("--rule");
      for (const t of [-1, -0.5, 0, 0.5, 1]) {
        trace([project(t, -1, 0), project(t, 1, 0)]);
        pen.stroke();
        trace([project(-1, t, 0), project(1, t, 0)]);
        pen.stroke();
      }
      const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]];
      const [post] = corners.map((c) => [c, project(...c, 0)]).sort((p, q) => p[1][0] - q[1][0])[0];
      const quads = [];
      for (let i = 0; i + 1 < xs.length; i++)
        for (let j = 0; j + 1 < ys.length; j++) {
          const rim = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]].map(([a, b]) => find.get(`${xs[a]} ${ys[b]}`));
          if (rim.some((k) => k === undefined || rows.value[k] === null)) continue;
          const spots = rim.map(spot), mean = rim.reduce((sum, k) => sum + valueAt(result, k), 0) / 4;
          quads.push({ spots, fill: BANDS[Math.min(9, Math.floor(mean / 10))], depth: spots.reduce((sum, s) => sum + s[2], 0) });
        }
      quads.sort((p, q) => q.depth - p.depth);
      pen.lineJoin = "round";
      pen.lineWidth = 0.7;
      for (const { spots, fill } of quads) {
        trace(spots);
        pen.closePath();
        pen.fillStyle = fill;
        pen.fill();
        pen.strokeStyle = "rgb(255 255 255 / 0.28)";
        pen.stroke();
      }
      pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
      pen.fillStyle = color("--muted");
      pen.strokeStyle = color("--muted");
      pen.lineWidth = 1;
      trace([project(...post, 0), project(...post, 100)]);
      pen.stroke();
      pen.textAlign = "right";
      for (const p of [0, 50, 100]) {
        const [x, y] = project(...post, p);
        pen.fillText(p === 100 ? "100%" : p, x - 7, y + 4);
      }
      pen.textAlign = "center";
      const near = (axis) => [-1, 1].map((t) => project(...(axis ? [t * 1.22, 0] : [0, t * 1.22]), 0)).sort((p, q) => q[1] - p[1])[0];
      for (const [name, [x, y]] of [["α", near(0)], ["β", near(1)]]) pen.fillText(name, x, y + 4);
      pen.fillStyle = color("--missing");
      for (const i of own) {
        if (rows.value[i] !== null) continue;
        const [x, y] = spot(i);
        pen.fillRect(x - 1.5, y - 1.5, 3, 3);
      }
      for (const node of nodes) [node.x, node.y] = spot(node.row);
    }

    let from = null, moved = false;
    canvas.addEventListener("pointerdown", (event) => {
      [from, moved] = [[event.clientX, event.clientY, rotation.yaw, rotation.pitch], false];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from || !event.buttons) return;
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      moved ||= Math.hypot(dx, dy) > 4;
      rotate(from[2] - dx * 0.01, from[3] + dy * 0.01);
    });
    canvas.addEventListener("click", (event) => moved && event.stopImmediatePropagation());
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [0.12, 0], ArrowRight: [-0.12, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
      if (!by) return;
      event.preventDefault();
      rotate(rotation.yaw + by[0], rotation.pitch + by[1]);
    });
    function rotate(yaw, pitch) {
      [rotation.yaw, rotation.pitch] = [yaw, Math.max(0.1, Math.min(1.5, pitch))];
      paint();
    }
    paint();
    interactive(canvas, nodes, 14, () => 0);
  }

  // The dialog: the responses at a point next to those at another point (by default the origin) to the same prompts.
  // Of those that the filters leave (`chosen`), `current` is the index of the one that is pointed to; -1: none.

  const detail = { result: null, row: 0, other: null, items: [], chosen: [], shown: 0, current: -1, ticket: 0 };

  // `at`: the index of the prompt whose response to point to. null: none.
  async function open(result, row, at = null) {
    const ticket = ++detail.ticket, { line, alpha, beta, point, inferred } = result.rows;
    if (inferred[row]) return note("This point is inferred, not measured: it has no responses.");
    const rows = line.map((_, i) => i), idOf = (i) => data.points[point[i]];
    const first = rows.filter((i) => point.indexOf(point[i]) === i).sort((i, j) => (point[j] === data.origin) - (point[i] === data.origin));
    const others = first.filter((i) => result.rows.value[i] !== null && !inferred[i]);
    const beside = others.find((i) => idOf(i) === detail.other) ?? others[0];
    let read;
    try {
      read = await Promise.all([responses.prompts(), responses.atPoint(idOf(row)), beside === undefined ? [] : responses.atPoint(idOf(beside))]);
    } catch {
      if (ticket === detail.ticket) note("The responses cannot be read: the viewer does not answer.");
      return;
    }
    if (ticket !== detail.ticket) return; // another point has been opened meanwhile
    const [prompts, here, there] = read;
    const [indices, texts, letters] = here[result.set] ?? [[], [], []];
    const [otherIndices, otherTexts, otherLetters] = there[result.set] ?? [[], [], []];
    const compared = new Map(otherIndices.map((p, i) => [p, [otherTexts[i], otherLetters[result.judge][i]]]));
    const items = indices.map((p, i) => ({ prompt: prompts[result.set][p], index: p, here: [texts[i], letters[result.judge][i]], there: compared.get(p) }));
    Object.assign(detail, { result, row, items });

    // Points of other lines at the same coordinates, which this point may hide.
    const samePlace = rows.filter((i) => alpha[i] === alpha[row] && beta[i] === beta[row]);
    options("line", point[row] === data.origin ? [] : samePlace, (i) => data.lines[line[i]], row, (i) => open(result, i));
    const measured = data.results.filter((each) => each.rows.point.includes(point[row]));
    const sameRow = (each) => each.rows.point.findIndex((p, i) => p === point[row] && each.rows.line[i] === line[row]);
    options("result", measured, (each) => each.label, result, (each) => open(each, sameRow(each)));
    detail.otherName = others.length ? placeName(result, beside) : "The origin";
    options("other", others, (i) => placeName(result, i), beside, (i) => {
      detail.other = idOf(i);
      open(result, row);
    });
    const kept = $("detail-category").value;
    const names = [...new Set(items.map((item) => item.prompt[1]))];
    options("category", names.length > 1 ? [null, ...names] : [], (name) => (name === null ? "all categories" : name || "(none)"), null, filter);
    if (names.includes(kept)) $("detail-category").value = kept;

    $("detail-title").textContent = placeName(result, row);
    $("detail-numbers").textContent = numbers(result, row).join(" · ");
    $("tip").hidden = true;
    if (!$("detail").open) $("detail").showModal();
    $("detail").scrollTop = 0;
    note("");
    const isBesideOrigin = beside === undefined || point[beside] === data.origin;
    address.set({ point: idOf(row), result: result.label, with: isBesideOrigin ? null : idOf(beside) });
    filter();
    select(detail.chosen.findIndex((item) => item.index === at));
    document.dispatchEvent(new Event("point-opened"));
  }

  // Fill a choice of the dialog; it is hidden if there is nothing to choose.
  function options(key, values, name, chosen, take) {
    const select = $(`detail-${key}`);
    select.closest("label").hidden = values.length < 2;
    select.replaceChildren(...values.map((each) => el("option", { value: name(each) }, name(each))));
    select.selectedIndex = Math.max(0, values.indexOf(chosen));
    select.onchange = () => take(values[select.selectedIndex]);
  }

  function filter() {
    const want = $("detail-filter").value, { result, row, items } = detail;
    const category = $("detail-category").selectedIndex > 0 ? $("detail-category").value : null;
    const query = $("detail-search").value.trim().toLowerCase();
    detail.chosen = items.filter(({ prompt, here, there }) =>
      (!want || (want === "changed" ? there && there[1] !== here[1] : here[1] === want)) &&
      (category === null || (prompt[1] || "(none)") === category) &&
      (!query || [prompt[0], here[0], there?.[0] ?? ""].some((text) => text.toLowerCase().includes(query))));
    const measured = result.rows.n[row];
    address.set({ show: want || null, category, text: query || null });
    $("detail-count").textContent = `${detail.chosen.length} of ${items.length} responses` + (items.length < measured ? ` (of ${measured} measured)` : "");
    $("detail-list").replaceChildren();
    detail.shown = 0;
    more();
    select(-1);
  }

  // Point to one of the chosen responses; -1: to none.
  function select(i) {
    const list = $("detail-list");
    list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    detail.current = i;
    while (i >= detail.shown) more();
    const item = list.children[i];
    if (item) {
      item.setAttribute("aria-current", "true");
      item.focus({ preventScroll: true });
      $("detail").style.scrollPaddingTop = `${document.querySelector("#detail .bar").offsetHeight}px`; // it stays on top
      item.scrollIntoView({ block: "start" });
    }
    address.set({ response: item ? detail.chosen[i].index : null });
    $("detail-place").textContent = item ? `${i + 1} of ${detail.chosen.length}` : "";
    for (const [id, to] of [["previous", i - 1], ["next", i + 1]]) $(`detail-${id}`).disabled = !(to in detail.chosen);
  }
  function step(by) {
    if (detail.current + by in detail.chosen) select(detail.current + by);
  }

  function more() {
    $("detail-list").append(...detail.chosen.slice(detail.shown, (detail.shown += SHOWN_AT_ONCE)).map(exchange));
    $("detail-more").hidden = detail.shown >= detail.chosen.length;
    document.dispatchEvent(new Event("responses-shown"));
  }

  function exchange({ index, prompt, here, there }) {
    const [text, category] = prompt;
    const question = el("p", { class: "prompt", dir: "auto" }, text);
    const otherName = detail.otherName === "The origin" ? "At the origin" : detail.otherName;
    const pair = el("div", { class: "pair" }, responseBox("At this point", here), responseBox(otherName, there));
    return el("li", { tabindex: -1, "data-index": index }, question, ...(category ? [el("p", { class: "category", dir: "auto" }, category)] : []), pair);
  }

  function responseBox(heading, response) {
    if (!response) return el("div", {}, el("h3", {}, heading), el("p", { class: "response empty" }, "not measured"));
    const [text, outcome] = response;
    const head = el("h3", {}, heading, el("span", { class: `outcome was-${outcome}` }, OUTCOMES[outcome]));
    return el("div", {}, head, el("p", { class: text ? "response" : "response empty", dir: "auto" }, text || "(empty)"));
  }

  $("detail-close").addEventListener("click", () => $("detail").close());
  $("detail-previous").addEventListener("click", () => step(-1));
  $("detail-next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", (event) => {
    if (!$("detail").open || dom.isTyping(event)) return;
    const by = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  $("detail-filter").addEventListener("change", filter);
  $("detail-search").addEventListener("input", filter);
  $("detail-more").addEventListener("click", more);
  $("detail").addEventListener("close", () => {
    detail.ticket++;
    detail.other = null;
    address.set({ point: null, result: null, with: null, show: null, category: null, text: null, response: null });
    if (detail.result) marked(keyOf(detail.result, detail.row))?.focus();
  });
  $("detail").addEventListener("click", (event) => event.target === $("detail") && $("detail").close());

  const marked = (key) => [...document.querySelectorAll("#chart .point")].find((mark) => mark.dataset.key === key);

  function draw() {
    const focused = document.activeElement?.dataset?.key;
    $("tip").hidden = true;
    (data.plane ? drawPlane : drawLines)();
    if (focused) marked(focused)?.focus({ preventScroll: true });
  }

  // Call then(result, row) with the row of a point in the first result that `fits` and has it.
  function withRow(id, fits, then) {
    const rowOf = (each) => each.rows.point.indexOf(data.points.indexOf(id));
    const result = data.results.find((each) => fits(each) && rowOf(each) >= 0);
    return result && then(result, rowOf(result));
  }

  // Show what the address names: the chart, and the responses at a point. A value that is not here is ignored, except
  // for the point.
  function followAddress() {
    for (const choose of choices) choose();
    draw();
    const id = address.get("point"), label = address.get("result"), other = address.get("with");
    note("");
    if (!id) return $("detail").close();
    detail.other = data.points.includes(other) ? other : null;
    const filters = { filter: address.get("show"), search: address.get("text") };
    for (const [key, value] of Object.entries(filters)) $(`detail-${key}`).value = value;
    if ($("detail-filter").selectedIndex < 0) $("detail-filter").selectedIndex = 0;
    $("detail-category").replaceChildren(el("option", {}, address.get("category"))); // `open` keeps a category that exists
    const at = address.has("response") ? Number(address.get("response")) : null;
    const opened = withRow(id, (each) => each.label === label, (...found) => open(...found, at)) ?? withRow(id, () => true, (...found) => open(...found, at));
    if (opened) return;
    $("detail").close();
    note("The address names a point that this page does not have.");
  }

  // Say below the chart why no responses are shown. Empty: nothing to say.
  function note(text) {
    if (text) $("detail").close();
    $("link-note").textContent = text;
    $("link-note").hidden = !text;
  }

  const currentIndex = () => detail.chosen[detail.current]?.index ?? null;

  // For the viewer: show newer numbers of the same sweep; name a point; open a point; show whole responses or their
  // first words; the response that is pointed to (`index`: that of its prompt, null: none), and the step to the next.
  window.landscape = {
    show(newer) {
      data = newer;
      if ($("link-note").hidden) draw();
      else followAddress(); // the point may have been measured meanwhile
    },
    name: (id, set) => withRow(id, (each) => each.set === set, placeName) ?? id,
    reveal(on) {
      responses.reveal(on);
      if ($("detail").open) open(detail.result, detail.row, currentIndex());
    },
    current: () => ({ point: data.points[detail.result.rows.point[detail.row]], set: detail.result.set, index: currentIndex() }),
    next: () => step(1),
    open: (id, set, at) => withRow(id, (each) => each.set === set, (...found) => open(...found, at)),
  };
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width !== (width = window.innerWidth)) draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw); // a canvas does not follow the style sheet by itself
  address.follow(followAddress);
})();
