"use strict";
// The list of sweeps, and what a sweep's page adds to the report: progress, newer numbers, and a search over all
// responses. Text is only ever set as text.
(() => {
  const $ = (id) => document.getElementById(id);
  const INTERVAL = 2000; // milliseconds between two requests about a running sweep
  const OUTCOMES = { r: "refused", c: "complied", d: "degenerate", x: "unclear", n: "not finite", u: "no verdict" };

  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const count = (x) => x.toLocaleString("en");

  function duration(seconds) {
    const whole = Math.round(seconds);
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  }

  async function fetchOk(path) {
    const response = await fetch(path);
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response;
  }
  const fetchJson = async (path) => (await fetchOk(path)).json();

  // Call `update` repeatedly for as long as it returns true: less often if responses are slow, and not while the page is
  // hidden.
  function poll(update, wait = INTERVAL) {
    setTimeout(async () => {
      if (document.hidden) return poll(update);
      const began = performance.now();
      try {
        if (await update()) poll(update, Math.max(INTERVAL, 4 * (performance.now() - began)));
      } catch {
        poll(update, 5 * INTERVAL); // the viewer was stopped, or the study moved: it may come back
      }
    }, wait);
  }

  function progressText({ state, done, tasks, failed, eta_seconds: left, why }) {
    const parts = [state, `${count(done)} of ${count(tasks)} tasks`];
    if (failed) parts.push(`${count(failed)} failed`);
    if (left) parts.push(`${duration(left)} left`);
    if (why) parts.push(why);
    return parts.join(" · ");
  }

  if ($("sweeps")) listSweeps();
  else followSweep();

  function listSweeps() {
    let sweeps = JSON.parse($("sweeps-data").textContent);
    let total = JSON.parse($("sweeps-total").textContent); // null: not counted yet
    const show = () => {
      const words = $("sweeps-text").value.toLowerCase().split(/\s+/), state = $("sweeps-state").value;
      const texts = (s) => [s.model, s.study, s.sweep, ...Object.values(s.about ?? {})].join(" ").toLowerCase();
      const chosen = sweeps.filter((s) => (!state || s.state === state) && words.every((word) => texts(s).includes(word)));
      const running = sweeps.filter((s) => s.state === "running").length;
      let summary = `${count(chosen.length)} of ${count(sweeps.length)} sweeps`;
      if (total === null) summary = "reading the sweeps";
      else if (isPartial()) summary = `reading ${count(sweeps.length)} of ${count(total)} sweeps`;
      if (running) summary += `, ${running} running`;
      $("sweeps-count").textContent = sweeps.length || isPartial()
        ? summary
        : "No sweep yet: `python -m orchestrator run` creates one.";
      const focused = document.activeElement?.getAttribute("href");
      $("sweeps").replaceChildren(...chosen.map(row));
      if (focused) [...$("sweeps").querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
    };
    const isPartial = () => total === null || sweeps.length < total;
    const row = (s) => {
      const href = `/sweeps/${encodeURIComponent(s.study)}/${encodeURIComponent(s.sweep)}/`;
      const about = s.about ? `${s.about.probe_set} · ${s.about.system_prompt} · ${s.about.judge}` : "";
      const name = el("td", {}, el("a", { href, dir: "auto" }, s.model), el("span", { class: "beneath" }, s.sweep), el("span", { class: "beneath", dir: "auto" }, about));
      if (s.unsound) name.append(el("p", { class: "warning" }, `The stored rows do not give its stored numbers: ${s.unsound}.`));
      const bar = el("progress", { max: s.tasks || 1, value: s.done, "aria-label": "tasks done" });
      return el("tr", {}, name,
        el("td", {}, ...(s.state === "complete" ? [] : [bar]), el("span", { class: "beneath" }, progressText(s))),
        el("td", { class: "number" }, s.origin ? `${s.origin}%` : "–"),
        el("td", { class: "number" }, s.visage ?? "–", el("span", { class: "beneath" }, s.interval ?? ""), el("span", { class: "beneath" }, s.counted ?? "")),
        el("td", { class: "number" }, s.margin ?? "–", el("span", { class: "beneath" }, s.margin_interval ?? "")),
        el("td", { class: "number" }, s.radius ?? "–"),
        el("td", {}, new Date(1000 * s.used).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })));
    };
    for (const id of ["sweeps-text", "sweeps-state"]) $(id).addEventListener("input", show);
    $("sweeps-filter").addEventListener("submit", (event) => event.preventDefault());
    show();
    poll(async () => {
      const response = await fetchOk("/sweeps"), newer = await response.json();
      const newTotal = response.headers.has("Sweeps-Total") ? Number(response.headers.get("Sweeps-Total")) : null;
      if (newTotal !== total || JSON.stringify(newer) !== JSON.stringify(sweeps)) {
        [sweeps, total] = [newer, newTotal];
        show();
      }
      return true;
    }, isPartial() ? 500 : 2 * INTERVAL);
  }

  function followSweep() {
    let before = JSON.parse($("state-data").textContent);
    const showProgress = ({ status }) => {
      $("progress").hidden = status.state === "complete";
      Object.assign($("progress-bar"), { max: status.tasks || 1, value: status.done });
      $("progress-text").textContent = progressText(status);
    };
    showProgress(before);
    const changing = ({ status, whole }) => status.state === "running" || !whole;
    if (changing(before)) {
      poll(async () => {
        const now = await fetchJson("now");
        showProgress(now);
        if (JSON.stringify(now.chart) !== JSON.stringify(before.chart)) {
          window.landscape.show(now.chart);
          $("tiles").replaceChildren(...now.tiles.map(tile));
          $("verdict").textContent = now.verdict;
          $("narrative").textContent = now.narrative;
          $("warnings").replaceChildren(...now.warnings.map((text) => el("p", { class: "warning" }, text)));
        }
        before = now;
        if (changing(now)) return true;
        if (!$("detail").open) location.reload(); // for the tables, which are complete only at the end
        return false;
      });
    }
    const tile = ({ name, value, unit, note }) => {
      const shown = el("dd", { class: "value" }, value, ...(unit ? [el("small", {}, ` ${unit}`)] : []));
      return el("div", {}, el("dt", {}, name), shown, el("dd", { class: "note" }, note));
    };

    let latest = 0;
    const keys = ["text", "group", "category", "outcome"]; // in the address: search-text, ...
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      const values = keys.map((key) => [`search-${key}`, $(`search-${key}`)?.value || null]);
      address.set({ ...Object.fromEntries(values), "search-text": $("search-text").value });
      search();
    });
    async function search() {
      const ticket = ++latest;
      const query = keys.map((key) => [key, $(`search-${key}`)?.value ?? ""]).filter(([, value]) => value);
      $("search-count").textContent = "searching …";
      const { total, found } = await fetchJson(`search?${new URLSearchParams(query)}`);
      if (ticket !== latest) return;
      const few = found.length < total ? `the first ${count(found.length)} of ` : "";
      $("search-count").textContent = total ? `${few}${count(total)} responses` : "No matching response.";
      remaining = found.map(hit);
      $("search-found").replaceChildren();
      more();
    }
    let remaining = [];
    address.follow(() => {
      if (!address.has("search-text")) return;
      const shown = keys.map((key) => $(`search-${key}`)).filter((field) => field && field.value !== address.get(field.id));
      for (const field of shown) field.value = address.get(field.id);
      if (shown.length || !latest) search();
    });
    const more = () => {
      $("search-found").append(...remaining.splice(0, 20));
      $("search-more").hidden = !remaining.length;
    };
    $("search-more").addEventListener("click", more);
    const hit = ({ point, set, index, prompt, category, asked, response, outcome }) => {
      const name = window.landscape.name(point, set);
      const button = el("button", { type: "button" }, name);
      button.addEventListener("click", () => window.landscape.open(point, set, index));
      const where = el("p", { class: "where" }, button, el("span", { class: `outcome was-${outcome}` }, OUTCOMES[outcome]), el("span", { dir: "auto" }, [category, asked].filter(Boolean).join(" · ")));
      const text = el("p", { class: response ? "response" : "response empty", dir: "auto" }, response || "(empty)");
      return el("li", {}, el("p", { class: "prompt", dir: "auto" }, prompt), text, where);
    };
  }
})();
